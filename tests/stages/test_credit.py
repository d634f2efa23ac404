"""What the samples say of each token: the right numbers of the right tokens of the right response."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.sources.builtin import byte_tokenizer
from palate.objectives.advantages import shape_rewards
from palate.records import Prompt
from palate.rollout.engine import Rollout
from palate.stages.reinforcement.method import Experience
from palate.stages.reinforcement.watching import sample_rows, token_credit

CHAT = Chat(byte_tokenizer())


def experience(texts: list[str], *, group: int = 1, seed: int = 0, kl_coef: float = 0.1) -> Experience:
    """Responses to prompts of several lengths; every token has its own numbers, and those beside the mask are big."""
    prompts = [Prompt.from_text("?" * (1 + number // group)) for number in range(len(texts))]
    sequences = Sequences.pack(
        [CHAT.prompt_tokens(prompt) for prompt in prompts],
        [CHAT.response_tokens(text) for text in texts],
        group_ids=[number // group for number in range(len(texts))],
    )
    draw = torch.Generator().manual_seed(seed)
    mask, scores = sequences.mask, torch.randn(len(texts), generator=draw)
    numbers = torch.where(mask, torch.randn(5, *mask.shape, generator=draw), 99.0)
    rollout = Rollout(
        prompts=tuple(prompts),
        texts=tuple(texts),
        sequences=sequences,
        logprobs=numbers[0],
        ended=torch.ones(len(texts), dtype=torch.bool),
        temperature=1.0,
    )
    return Experience(
        rollout=rollout,
        trunk=None,
        scores=scores,
        ref_logprobs=numbers[1],
        rewards=shape_rewards(scores, numbers[0], numbers[1], mask, kl_coef=kl_coef),
        advantages=numbers[2],
        values=numbers[3],
        returns=numbers[4],
    )


def shown(of: Experience, **options: int) -> list[dict[str, Any]]:
    credit = partial(token_credit, of.rollout.sequences, chat=CHAT, credit=of.credit)
    return sample_rows(of.rollout, of.scores, credit, **options)


def alone(tensor: Tensor, of: Experience, row: int) -> list[float]:
    """A row's response tokens, found by their lengths and not by the mask."""
    sequences = of.rollout.sequences
    start, end = int(sequences.prompt_lengths[row]), int(sequences.lengths[row])
    return [float(tensor[row, place]) for place in range(start, end)]


def test_each_row_has_the_numbers_of_its_own_tokens() -> None:
    given = experience(["Yes.", "No", "", "A longer one"])
    assert given.values is not None
    assert given.returns is not None
    rows = shown(given)
    assert [row["response"] for row in rows] == ["Yes.", "No", "", "A longer one"]
    for number, row in enumerate(rows):
        credit = row["credit"]
        assert credit.pop("tokens") == [*row["response"], CHAT.layout.stop]
        expected = {
            "kl": given.rollout.logprobs - given.ref_logprobs,
            "reward": given.rewards,
            "value": given.values,
            "return": given.returns,
            "advantage": given.advantages,
        }
        assert list(credit) == list(expected)
        for name, tensor in expected.items():
            assert credit[name] == pytest.approx(alone(tensor, given, number), rel=1e-6), name
        assert row["score"] == float(given.scores[number])


def test_without_a_value_model_there_are_no_values() -> None:
    given = replace(experience(["Yes."]), values=None, returns=None)
    assert list(shown(given)[0]["credit"]) == ["tokens", "kl", "reward", "advantage"]


@settings(max_examples=25)
@given(st.lists(st.text("aé字", max_size=5), min_size=1, max_size=5), st.integers(0, 99), st.floats(0, 2))
def test_rewards_sum_to_the_score_less_the_price_of_the_kl(texts: list[str], seed: int, kl_coef: float) -> None:
    for row in shown(experience(texts, seed=seed, kl_coef=kl_coef)):
        credit = row["credit"]
        assert len(credit["tokens"]) == len(credit["kl"]) == len(credit["reward"])
        assert sum(credit["reward"]) == pytest.approx(row["score"] - kl_coef * sum(credit["kl"]), abs=1e-5)
        for reward, kl in zip(credit["reward"][:-1], credit["kl"][:-1], strict=True):
            assert reward == pytest.approx(-kl_coef * kl, abs=1e-6)


def test_the_first_responses_of_the_first_prompts_are_shown() -> None:
    given = experience([str(number) for number in range(12)], group=3)
    assert [row["response"] for row in shown(given)] == ["0", "3", "6", "9"]
    assert [row["response"] for row in shown(given, count=2)] == ["0", "6"]


def test_numbers_are_written_as_short_as_they_can_be_and_lose_nothing() -> None:
    sequences = experience(["abc"]).rollout.sequences
    numbers = torch.full(sequences.mask.shape, 0.1)
    said = token_credit(sequences, 0, CHAT, {"value": numbers, "half": numbers.bfloat16()})
    assert said["value"] == [0.1] * 4
    assert torch.tensor(said["value"]).equal(numbers[0, :4])
    assert said["half"] == [0.100097656] * 4
