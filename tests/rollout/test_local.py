from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from palate.errors import DataError
from palate.lm.model import LanguageModel, Trunk
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Sampling
from palate.records import Message, Prompt
from palate.rollout import slots
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine

PROMPTS = [
    Prompt.from_text(text)
    for text in ("Hi", "What is the tallest mountain on Mars?", "Name a bird.", "", "Tell me about rivers, briefly.")
]


def sample(
    loaded: Loaded[LanguageModel], prompts: list[Prompt] = PROMPTS, *, slots: int = 64, key: int = 1, count: int = 4
) -> Rollout:
    sampling = Sampling(max_new_tokens=10, temperature=0.8, num_slots=slots)
    return LocalEngine(loaded.model, loaded.chat).generate(prompts, sampling, num_responses=count, key=("test", key))


@pytest.fixture(scope="module")
def rollout(stopping: Loaded[LanguageModel]) -> Rollout:
    return sample(stopping)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_response_does_not_depend_on_how_many_are_decoded_at_once(
    stopping: Loaded[LanguageModel], rollout: Rollout, slots: int
) -> None:
    other = sample(stopping, slots=slots)
    assert torch.equal(other.sequences.tokens, rollout.sequences.tokens)
    assert other.texts == rollout.texts
    assert torch.equal(other.ended, rollout.ended)
    torch.testing.assert_close(other.logprobs, rollout.logprobs, atol=1e-5, rtol=0)


def test_what_a_gpu_captures_draws_the_same(
    stopping: Loaded[LanguageModel], rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and shapes are then the same in every step; here the step is called instead of being captured."""
    places = set()

    def run_once(compute: Callable[[], None], device: torch.device) -> Callable[[], None]:
        compute()

        def advance() -> None:
            decoding = compute.__self__  # type: ignore[attr-defined]
            tensors = (decoding.last, decoding.uniform, decoding.cache.keys, decoding.cache.positions)
            places.add(tuple((tensor.data_ptr(), tensor.shape) for tensor in tensors))
            compute()

        return advance

    monkeypatch.setattr(slots, "stays_in_place", lambda device: True)
    monkeypatch.setattr(slots, "captured", run_once)
    other = sample(stopping, slots=3)
    assert len(places) == 1
    assert torch.equal(other.sequences.tokens, rollout.sequences.tokens)
    torch.testing.assert_close(other.logprobs, rollout.logprobs, atol=1e-5, rtol=0)


def test_a_response_does_not_depend_on_the_other_prompts(stopping: Loaded[LanguageModel], rollout: Rollout) -> None:
    alone = sample(stopping, [PROMPTS[1]], count=6)
    assert alone.texts[:4] == rollout.texts[4:8]
    reversed_ = sample(stopping, PROMPTS[::-1])
    assert reversed_.texts[12:16] == rollout.texts[4:8]


def test_another_key_gives_other_responses(tiny: Loaded[LanguageModel]) -> None:
    first, again, other = (sample(tiny, key=key).texts for key in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)


def test_sampling_samples(tiny: Loaded[LanguageModel]) -> None:
    rollout = sample(tiny, PROMPTS[:1], count=32)
    assert len(set(rollout.texts)) == 32
    entropy = float(-rollout.logprobs.sum() / rollout.sequences.mask.sum())
    assert 4.5 < entropy < math.log(259)


def test_logprobs_are_the_trainers(stopping: Loaded[LanguageModel], rollout: Rollout) -> None:
    computed = stopping.model.logprobs(rollout.sequences, temperature=0.8).detach()
    torch.testing.assert_close(rollout.logprobs, computed, atol=1e-5, rtol=0)
    ratio = (computed - rollout.logprobs).exp()
    assert (ratio - 1).abs().max() < 1e-5
    assert not rollout.logprobs[~rollout.sequences.mask].any()
    other = stopping.model.logprobs(rollout.sequences, temperature=1.0).detach()
    assert (other - rollout.logprobs).abs().max() > 0.1  # one temperature everywhere, or the ratio is not 1


def test_every_response_ends_with_the_stop_token_or_is_full(stopping: Loaded[LanguageModel], rollout: Rollout) -> None:
    stop = stopping.chat.stop_id
    assert set(rollout.ended.tolist()) == {True, False}
    for tokens, ended in zip(rollout.sequences.responses(), rollout.ended.tolist(), strict=True):
        assert stop not in tokens[:-1]
        assert ended == (tokens[-1] == stop)
        assert ended or len(tokens) == 10
    assert len({len(tokens) for tokens in rollout.sequences.responses()}) > 3


def test_a_source_of_rewards_is_told_the_tokens_who_laid_them_out_and_which_ended(
    stopping: Loaded[LanguageModel], rollout: Rollout
) -> None:
    tokens, trunk = rollout.sampled_tokens(), Trunk(prompts={}, responses={}, key="")
    assert tokens.sequences is rollout.sequences
    assert tokens.layout == rollout.layout == stopping.chat.fingerprint
    assert tokens.ended == tuple(rollout.ended.tolist())
    assert tokens.trunk is None
    assert rollout.sampled_tokens(trunk).trunk is trunk
    assert {True, False} == set(rollout.ended.tolist())


def test_tokens_are_what_was_drawn(stopping: Loaded[LanguageModel], rollout: Rollout) -> None:
    sequences = rollout.sequences
    assert sequences.group_ids.tolist() == [index for index in range(5) for _ in range(4)]
    assert rollout.prompts == tuple(prompt for prompt in PROMPTS for _ in range(4))
    for row, (prompt, text) in enumerate(zip(rollout.prompts, rollout.texts, strict=True)):
        prompt_tokens = stopping.chat.prompt_tokens(prompt)
        assert sequences.tokens[row, : len(prompt_tokens)].tolist() == prompt_tokens
        assert text == stopping.chat.text(sequences.responses()[row])
    expected = torch.zeros_like(sequences.mask)
    for row, (start, end) in enumerate(zip(sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), strict=True)):
        expected[row, start:end] = True
    assert torch.equal(sequences.mask, expected)


def test_the_distribution_is_the_full_one(tiny: Loaded[LanguageModel]) -> None:
    prompt = Prompt.from_text("Hi")
    sampling = Sampling(max_new_tokens=1, temperature=0.5, num_slots=512)
    rollout = LocalEngine(tiny.model, tiny.chat).generate([prompt], sampling, num_responses=1000, key=("many",))
    counts = Counter(tokens[0] for tokens in rollout.sequences.responses())
    tokens = torch.tensor([tiny.chat.prompt_tokens(prompt)])
    with torch.no_grad():
        last = torch.tensor([tokens.shape[1] - 1])
        row = tiny.model.hidden(rollout.sequences, torch.tensor([0]), last, None)
        p = (tiny.model.logits(row)[0] / 0.5).softmax(0).double()
    expected = 1000 * p
    drawn = torch.tensor([counts[token] for token in range(259)]).double()
    chi_square = float(((drawn - expected) ** 2 / expected).sum())
    assert chi_square < 258 + 4 * math.sqrt(2 * 258)


def test_there_is_no_way_to_cut_the_distribution() -> None:
    for setting in ("top_p", "top_k", "min_tokens", "repetition_penalty"):
        with pytest.raises(ValidationError):
            Sampling.model_validate({setting: 1})


def test_a_prompt_that_does_not_fit_is_refused(tiny: Loaded[LanguageModel]) -> None:
    long = Prompt.from_text("river " * 400)
    with pytest.raises(DataError, match=r"a prompt of 24\d\d tokens and 10 new ones do not fit .* context of 2048"):
        sample(tiny, [PROMPTS[0], long])


def test_new_weights_are_sampled_from(tiny: Loaded[LanguageModel], stopping: Loaded[LanguageModel]) -> None:
    engine = LocalEngine(tiny.model, tiny.chat)
    sampling = Sampling(max_new_tokens=10, temperature=0.8)
    before = engine.generate(PROMPTS, sampling, num_responses=4, key=("test", 1))
    engine.load_weights(stopping.model)
    after = engine.generate(PROMPTS, sampling, num_responses=4, key=("test", 1))
    assert before.texts == sample(tiny).texts
    assert after.texts == sample(stopping).texts
    changed = load_language_model("tiny", precision="fp32")
    engine.load_weights(changed.model)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.mul_(1.2)
    moved = engine.generate(PROMPTS, sampling, num_responses=4, key=("test", 1))
    computed = changed.model.logprobs(moved.sequences, temperature=0.8).detach()
    torch.testing.assert_close(moved.logprobs, computed, atol=1e-5, rtol=0)


def test_conversations_are_prompts_too(tiny: Loaded[LanguageModel]) -> None:
    turns = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    prompt = Prompt(messages=(*turns, Message(role="user", content="And?")))
    assert sample(tiny, [prompt], count=1).sequences.responses()


def test_a_prompt_given_twice_gets_other_responses(tiny: Loaded[LanguageModel]) -> None:
    engine = LocalEngine(tiny.model, tiny.chat)
    prompt, sampling = Prompt.from_text("Hello?"), Sampling(max_new_tokens=8)
    twice = engine.generate([prompt, prompt], sampling, num_responses=2, key=(0,))
    once = engine.generate([prompt], sampling, num_responses=4, key=(0,))
    assert twice.texts == once.texts
    assert len(set(twice.texts)) == 4


def test_prompts_are_read_in_passes_of_a_limited_size(
    stopping: Loaded[LanguageModel], rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most so many tokens, or one prompt; the responses are the same."""
    passes: list[list[int]] = []
    prefill = slots.Decoding._prefill

    def watched(self: slots.Decoding, prompts: list[int]) -> None:
        passes.append([len(self.prompt_tokens[prompt]) for prompt in prompts])
        prefill(self, prompts)

    monkeypatch.setattr(slots.Decoding, "_prefill", watched)
    sample(stopping)
    assert len(passes) == 1
    lengths = sorted(passes.pop())
    limit = lengths[-1] - 1  # less than the longest, more than the two shortest
    assert lengths[0] + lengths[1] <= limit
    monkeypatch.setattr(slots, "PREFILL_TOKENS", limit)
    other = sample(stopping)
    assert all(sum(each) <= limit or len(each) == 1 for each in passes)
    assert sorted(length for each in passes for length in each) == lengths
    assert max(map(len, passes)) > 1
    assert torch.equal(other.sequences.tokens, rollout.sequences.tokens)
    torch.testing.assert_close(other.logprobs, rollout.logprobs, atol=1e-5, rtol=0)
