"""Dynamic sampling: what taught nothing gives way to other prompts, within a bound, and all of it stays together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from palate.lm.batch import Sequences
from palate.records import Prompt
from palate.rewards.mix import MixedScores
from palate.rollout.engine import Rollout
from palate.stages.reinforcement.resampling import Resampled, resampled

PROMPTS = [Prompt.from_text(text) for text in "abcdefgh"]
K = 2


class Engine:
    """Says the prompt and the number of the response; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], tuple[int | str, ...]]] = []

    def __call__(self, prompts: Sequence[Prompt], *, key: tuple[int | str, ...]) -> Rollout:
        self.asked.append(([prompt.text for prompt in prompts], key))
        each = [(prompt, number) for prompt in prompts for number in range(K)]
        sequences = Sequences.pack(
            [[ord(prompt.text)] for prompt, _ in each],
            [[number + 1] * (1 + PROMPTS.index(prompt) % 3) for prompt, number in each],
            group_ids=[place for place in range(len(prompts)) for _ in range(K)],
        )
        return Rollout(
            prompts=tuple(prompt for prompt, _ in each),
            texts=tuple(f"{prompt.text}{number}" for prompt, number in each),
            sequences=sequences,
            logprobs=torch.where(sequences.mask, -sequences.tokens.float(), 0.0),
            ended=torch.tensor([number == 0 for _, number in each]),
            temperature=1.0,
        )


def judged(telling: str) -> Callable[[Rollout], tuple[Tensor, MixedScores]]:
    """Responses differ only to these prompts."""

    def judge(rollout: Rollout) -> tuple[Tensor, MixedScores]:
        scores = torch.tensor([float(text[0] in telling and text[1] == "1") for text in rollout.texts])
        return scores, MixedScores(total=scores, terms={"all": scores}, spread=None)

    return judge


def run(telling: str, most: int, count: int = 4) -> tuple[Resampled, Engine]:
    engine, judge = Engine(), judged(telling)
    rollout = engine(PROMPTS[:count], key=(7,))
    return resampled(rollout, judge(rollout)[0], PROMPTS, engine, judge, most=most, order=(7,), sampling=(7,)), engine


def test_prompts_that_teach_stay_and_the_others_give_way() -> None:
    found, engine = run("bdefgh", 3)
    asked = [texts for texts, _ in engine.asked]
    assert asked[0] == ["a", "b", "c", "d"]
    assert found.replaced == 2
    assert len(asked) == 2
    assert set(asked[1]) <= set("efgh")
    assert [prompt.text for prompt in found.rollout.prompts[::K]] == ["b", "d", *asked[1]]
    assert found.scores.tolist() == [0, 1] * 4
    assert [mixed.total.tolist() for mixed in found.scored] == [[0, 1] * 2]


def test_everything_of_a_response_goes_with_it() -> None:
    found, _ = run("bdefgh", 3)
    rollout, scores = found.rollout, found.scores
    assert rollout.sequences.rows.tolist() == list(range(8))
    assert rollout.sequences.group_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for row, (prompt, text) in enumerate(zip(rollout.prompts, rollout.texts, strict=True)):
        length = 1 + PROMPTS.index(prompt) % 3
        number = int(text[1])
        mask = rollout.sequences.mask[row]
        assert text[0] == prompt.text
        assert rollout.sequences.tokens[row, 0] == ord(prompt.text)
        assert rollout.sequences.responses()[row] == [number + 1] * length
        assert int(mask.sum()) == length
        assert rollout.logprobs[row].tolist() == torch.where(mask, -float(number + 1), 0.0).tolist()
        assert bool(rollout.ended[row]) == (number == 0)
        assert scores[row] == number


def test_rounds_are_bounded_and_every_prompt_comes_once() -> None:
    found, engine = run("b", 1)
    assert len(engine.asked) == 2
    assert found.replaced == 3
    assert len(found.rollout.prompts) == 8
    found, engine = run("b", 9)  # four others are all there are
    drawn = [text for texts, _ in engine.asked for text in texts]
    assert sorted(drawn) == list("abcdefgh")
    assert found.replaced == 4
    assert found.scores.view(-1, K).amax(1).sum() == 1
    assert [len(mixed.total) for mixed in found.scored] == [K * len(texts) for texts, _ in engine.asked[1:]]


def test_nothing_is_drawn_when_all_of_them_teach() -> None:
    found, engine = run("abcd", 3)
    assert (found.replaced, found.scored, len(engine.asked)) == (0, (), 1)
    assert found.rollout.texts == ("a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1")


def test_it_is_a_function_of_the_key_alone() -> None:
    assert run("bd", 2)[1].asked == run("bd", 2)[1].asked
    keys = [key for _, key in run("b", 2)[1].asked]
    assert keys == [(7,), (7, 1), (7, 2)]


@pytest.mark.parametrize("count", [1, 8])
def test_one_prompt_and_all_prompts(count: int) -> None:
    found, _ = run("h", 9, count)
    assert len(found.rollout.prompts) == count * K
    assert "h1" in found.rollout.texts
