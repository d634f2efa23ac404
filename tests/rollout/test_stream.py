from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from palate.errors import DataError
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.builtin import TINY_TEMPLATE, byte_tokenizer
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.drawing import Drawn
from palate.rollout.local import LocalEngine
from palate.rollout.stream import Finished, GrowingText, Piece, stream

SAMPLING = Sampling(max_new_tokens=12, temperature=0.8)
PROMPT = Prompt.from_text("What is the tallest mountain on Mars?")
KEY = ("test", 1)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    network = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=2, bos_token_id=None, initializer_range=0.1))
    directory = tmp_path_factory.mktemp("models") / "gpt2"
    network.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=["ours", "foreign"])
def loaded(request: pytest.FixtureRequest, stopping: Loaded[LanguageModel], gpt2: Path) -> Loaded[LanguageModel]:
    return stopping if request.param == "ours" else load_language_model(str(gpt2), precision="fp32")


def run(loaded: Loaded[LanguageModel], prompt: Prompt = PROMPT, **settings: Any) -> list[Piece | Finished]:
    return list(stream(loaded.model, loaded.chat, prompt, SAMPLING, key=KEY, **settings))


def ends(events: list[Piece | Finished]) -> list[Finished]:
    return sorted((event for event in events if isinstance(event, Finished)), key=lambda event: event.index)


@pytest.mark.parametrize("text", ["Hi", PROMPT.text, "Name a bird.", ""])
def test_the_same_key_and_number_give_the_engines_response(loaded: Loaded[LanguageModel], text: str) -> None:
    prompt = Prompt.from_text(text)
    rollout = LocalEngine(loaded.model, loaded.chat).generate([prompt], SAMPLING, num_responses=4, key=KEY)
    for number in range(4):
        (end,) = ends(run(loaded, prompt, sample_index=number))
        assert end.text == rollout.texts[number]
        assert end.finish_reason == ("stop" if rollout.ended[number] else "length")
        assert end.prompt_tokens == len(loaded.chat.prompt_tokens(prompt))
        assert end.response_tokens == int(rollout.sequences.mask[number].sum())
        assert end.logprob == pytest.approx(float(rollout.logprobs[number].sum()), abs=1e-4)


def test_both_ways_to_end_are_met(stopping: Loaded[LanguageModel]) -> None:
    assert {end.finish_reason for end in ends(run(stopping, num_responses=8))} == {"stop", "length"}


def test_side_by_side_they_are_the_same_as_alone(loaded: Loaded[LanguageModel]) -> None:
    together = run(loaded, sample_index=3, num_responses=4)
    for index in range(4):
        alone = run(loaded, sample_index=3 + index)
        assert [e.text for e in together if e.index == index] == [e.text for e in alone]
        assert "".join(e.text for e in alone if isinstance(e, Piece)) == ends(alone)[0].text
        assert len(alone) == ends(alone)[0].response_tokens + 1  # a piece for every token


def test_streams_take_turns_without_disturbing_each_other(loaded: Loaded[LanguageModel]) -> None:
    prompts = [Prompt.from_text(text) for text in ("Hi", "Tell me about rivers, briefly.")]
    streams = [stream(loaded.model, loaded.chat, prompt, SAMPLING, key=KEY) for prompt in prompts]
    got: list[list[Piece | Finished]] = [[], []]
    for turn in zip_longest(*streams):
        assert torch.is_grad_enabled()
        for events, event in zip(got, turn, strict=True):
            events += [event] if event else []
    assert [ends(events) for events in got] == [ends(run(loaded, prompt)) for prompt in prompts]


def test_turns_of_bf16_models_leave_no_autocast_behind(gpt2: Path) -> None:
    loaded = load_language_model(str(gpt2), precision="bf16")
    first, second = (stream(loaded.model, loaded.chat, PROMPT, SAMPLING, key=(number,)) for number in (1, 2))
    for events in (first, second):
        next(events)
        assert not torch.is_autocast_enabled("cpu")
    first.close()
    expected = LocalEngine(loaded.model, loaded.chat).generate([PROMPT], SAMPLING, num_responses=1, key=(2,))
    assert ends(list(second))[0].text == expected.texts[0]
    assert not torch.is_autocast_enabled("cpu")


def test_greedy_is_the_most_likely_token_each_time(loaded: Loaded[LanguageModel]) -> None:
    from palate.lm.batch import Sequences

    tokens = list(loaded.chat.prompt_tokens(PROMPT))
    for _ in range(SAMPLING.max_new_tokens):
        with torch.no_grad():
            last = torch.tensor([len(tokens) - 1])
            row = loaded.model.hidden(Sequences.pack([tokens], [[]]), torch.tensor([0]), last, None)
            tokens.append(int(loaded.model.logits(row).argmax()))
        if tokens[-1] == loaded.chat.stop_id:
            break
    (end,) = ends(run(loaded, greedy=True))
    assert end.text == loaded.chat.text(tokens[end.prompt_tokens :])
    assert end.response_tokens == len(tokens) - end.prompt_tokens
    assert end.logprob == 0.0
    assert ends(run(loaded, greedy=True, sample_index=5)) == [end]


def test_closed_between_two_tokens_it_computes_no_more(
    stopping: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    logits = LanguageModel.logits
    monkeypatch.setattr(LanguageModel, "logits", lambda *args, **how: steps.append(1) or logits(*args, **how))
    events = stream(stopping.model, stopping.chat, PROMPT, Sampling(max_new_tokens=1000), key=KEY, num_responses=2)
    for count in (1, 1, 2):  # two responses: a step gives two events
        next(events)
        assert len(steps) == count
    events.close()
    assert list(events) == []
    assert len(steps) == 2


def test_a_prompt_that_does_not_fit_is_refused_and_says_so(tiny: Loaded[LanguageModel]) -> None:
    with pytest.raises(DataError, match=r"a prompt of 24\d\d tokens and 12 new ones do not fit .* context of 2048"):
        run(tiny, Prompt.from_text("river " * 400))


def said(chat: Chat, tokens: list[int]) -> list[str]:
    """The pieces of a response with these tokens, cut off after the last."""
    response, text = Drawn(prompt=0, uniform=[0.5] * len(tokens)), GrowingText(chat)
    pieces = []
    for token in tokens:
        response.add(token, 0.0, chat.stop_id)
        pieces.append(text.update(response))
    return pieces


BYTES = Chat(byte_tokenizer())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\ufffd"), max_size=30))  # no special token
@example("  naïve  €5 👩‍👩‍👧\n\n한국어 \u3000x ")
def test_a_character_is_held_back_until_it_is_whole(text: str) -> None:
    pieces = said(BYTES, BYTES.response_tokens(text)[:-1])
    assert "".join(pieces) == text.strip()
    assert "\ufffd" not in "".join(pieces)
    assert sum(map(bool, pieces)) == sum(not character.isspace() for character in text)


@given(st.lists(st.integers(3, 258), min_size=1, max_size=30))
def test_tokens_that_are_no_text_are_never_lost(tokens: list[int]) -> None:
    assert "".join(said(BYTES, tokens)) == BYTES.text(tokens)


def fallback_chat() -> Chat:
    """Tokens for bytes, as tokenizers of the sentencepiece kind have them: one broken byte spoils the run it is in."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    wrapped = wrap(tokenizer_object=tokenizer, additional_special_tokens=["<|im_start|>"], **special)
    wrapped.chat_template = TINY_TEMPLATE
    return Chat(wrapped)


def test_decoding_that_changes_its_mind_for_a_while() -> None:
    chat = fallback_chat()
    tokens = chat.response_tokens("€é")[:-1]
    assert len(tokens) == 5
    # after the fourth byte the whole run reads as four replacement characters
    assert said(chat, tokens) == ["", "", "€", "", "é"]
