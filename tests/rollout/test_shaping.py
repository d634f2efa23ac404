"""Distributions for readers, against what the protocol's words mean, computed by hand and by brute force."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.drawing import draw, most_likely
from palate.rollout.shaping import Chosen, ShapedPick, Shaping, keep_top_p
from palate.rollout.stream import Finished, Piece, continuation, stream

SAMPLING = Sampling(max_new_tokens=12, temperature=0.8)
PROMPT = Prompt.from_text("Name a river.")
CPU = torch.device("cpu")


def run(loaded: Loaded[LanguageModel], **settings: Any) -> list[Piece | Finished]:
    return list(stream(loaded.model, loaded.chat, PROMPT, SAMPLING, key=("shaping", 1), **settings))


def chosen(events: list[Piece | Finished], index: int = 0) -> list[Chosen]:
    return [event.chosen for event in events if isinstance(event, Piece) and event.index == index and event.chosen]


def row(loaded: Loaded[LanguageModel], tokens: list[int]) -> Tensor:
    """Logits of what follows the tokens, computed on their own."""
    with torch.no_grad():
        last = torch.tensor([len(tokens) - 1])
        hidden = loaded.model.hidden(Sequences.pack([tokens], [[]]), torch.tensor([0]), last, None)
        return loaded.model.logits(hidden)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 100))
def test_top_p_keeps_the_smallest_set(weights: list[int], percent: int) -> None:
    p = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kept = keep_top_p(p.log(), percent / 100).isfinite()
    together = sum(weight for weight, is_kept in zip(weights, kept.tolist(), strict=True) if is_kept)
    exactly = percent * sum(weights)
    if together * 100 == exactly or exactly == 0:
        assert kept.sum() >= 1
        return  # a sum that meets top_p to the digit may be rounded either way
    assert together * 100 > exactly
    smaller = [sum(few) for few in combinations(weights, int(kept.sum()) - 1)]
    assert all(few * 100 <= exactly for few in smaller)
    assert min(w for w, k in zip(weights, kept.tolist(), strict=True) if k) >= max(
        [w for w, k in zip(weights, kept.tolist(), strict=True) if not k], default=0
    )


def test_what_is_kept_keeps_its_proportions() -> None:
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert keep_top_p(p, 0.7).softmax(-1).tolist() == [pytest.approx([0, 2 / 3, 0, 1 / 3])]
    assert keep_top_p(p, 0.0).argmax() == 1
    assert keep_top_p(p, 1.0) is p


def test_penalties_are_those_of_the_protocol() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence + bias[j], and the temperature divides the whole."""
    seen: list[Tensor] = []

    def pick(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(logits.clone())
        return draw(logits, uniform)

    mu = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    shaping = Shaping(frequency_penalty=0.5, presence_penalty=0.25, logit_bias={3: -2.0})
    shaped = ShapedPick(shaping, pick, vocabulary=4, temperature=2.0, device=CPU)
    uniform = torch.zeros(1, dtype=torch.float64)
    shaped(mu / 2, uniform)
    for token in (1, 1, 2):
        assert shaped.add(token) is None
    shaped(mu / 2, uniform)
    assert torch.equal(seen[0], torch.tensor([[0.5, 1.0, 1.5, 1.0]]))
    assert torch.equal(seen[1], torch.tensor([[0.5, (2 - 1.25) / 2, (3 - 0.75) / 2, 1.0]]))


def test_nothing_is_shaped_unless_asked_for() -> None:
    assert Shaping() == Shaping(top_p=1.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias={}, num_likely=None)


def test_neutral_settings_draw_what_the_model_draws(stopping: Loaded[LanguageModel]) -> None:
    plain = run(stopping, num_responses=3)
    shaped = run(stopping, num_responses=3, shaping=Shaping(num_likely=2))
    for index in range(3):
        own = [event for event in shaped if event.index == index]
        expected = [event for event in plain if event.index == index]
        assert [event.text for event in own] == [event.text for event in expected]
        assert isinstance(own[-1], Finished)
        stopped = own[-1].finish_reason == "stop"  # by a token that is no part of the text
        assert len(chosen(shaped, index)) == own[-1].response_tokens - stopped


@pytest.mark.parametrize("greedy", [False, True])
def test_logprobs_are_the_models_own_whatever_shapes_the_draw(tiny: Loaded[LanguageModel], greedy: bool) -> None:
    shaping = Shaping(num_likely=3, top_p=0.7, frequency_penalty=1.5, logit_bias={70: 3.0})
    found = chosen(run(tiny, shaping=shaping, greedy=greedy))
    tokens = tiny.chat.prompt_tokens(PROMPT)
    assert len(found) == SAMPLING.max_new_tokens
    for each in found:
        logprobs = row(tiny, tokens)[0].log_softmax(-1)
        assert each.logprob == pytest.approx(float(logprobs[each.token]), abs=1e-4)
        best = logprobs.topk(3)
        assert [token for token, _ in each.likely] == best.indices.tolist()
        assert [value for _, value in each.likely] == pytest.approx(best.values.tolist(), abs=1e-4)
        tokens.append(each.token)


def test_a_whole_response_follows_the_shaped_distribution(tiny: Loaded[LanguageModel]) -> None:
    """Greedy decoding by hand, with the penalty; without it the same token comes again and again."""
    shaping = Shaping(frequency_penalty=2.0, presence_penalty=1.0, num_likely=0)
    tokens, counts = tiny.chat.prompt_tokens(PROMPT), torch.zeros(259)
    expected = []
    for _ in range(SAMPLING.max_new_tokens):
        logits = row(tiny, tokens)[0] - 2.0 * counts - (counts > 0).float()
        expected.append(int(most_likely(logits[None], torch.zeros(1))[0]))
        tokens.append(expected[-1])
        counts[expected[-1]] += 1
    assert [each.token for each in chosen(run(tiny, shaping=shaping, greedy=True))] == expected
    assert len(set(expected)) > 1


def test_a_bias_decides(tiny: Loaded[LanguageModel]) -> None:
    (letter,) = tiny.chat.response_tokens("q")[:-1]
    *_, end = run(tiny, shaping=Shaping(logit_bias={letter: 100.0}))
    assert end.text == "q" * SAMPLING.max_new_tokens


def test_a_turn_that_was_begun_goes_on_to_the_letter(tiny: Loaded[LanguageModel]) -> None:
    """The tokens after the beginning are those that the model draws after it; white space between is kept."""
    chat = tiny.chat
    space = chat.response_tokens(" ")[0]
    events = run(tiny, begun="The river", greedy=True, shaping=Shaping(logit_bias={space: 100.0}))
    *_, end = events
    assert end.text == " " * SAMPLING.max_new_tokens
    assert "".join(event.text for event in events if isinstance(event, Piece)) == end.text
    tokens = chat.prompt_tokens(PROMPT) + chat.response_tokens("The river")[:-1]
    (first, *_) = chosen(run(tiny, begun="The river", greedy=True, shaping=Shaping(num_likely=0)))
    assert first.token == int(row(tiny, tokens).argmax())


def test_a_text_is_continued_without_a_template(tiny: Loaded[LanguageModel]) -> None:
    (first, *_) = chosen(run(tiny, raw=True, greedy=True, shaping=Shaping(num_likely=0)))
    assert first.token == int(row(tiny, tiny.chat.response_tokens(PROMPT.text)[:-1]).argmax())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\ufffd")), st.integers(0, 20))
def test_a_continuation_is_the_rest(text: str, cut: int) -> None:
    from palate.lm.chat import Chat
    from palate.lm.sources.builtin import byte_tokenizer

    chat = Chat(byte_tokenizer())
    before, after = (chat.response_tokens(part)[:-1] for part in (text[:cut], text[cut:]))
    assert continuation(chat, before, after) == text[cut:]
