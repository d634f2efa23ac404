"""Sections of a card in which somebody judges: responses by the recipe's judge, rankings that are there already, and
answers that people marked by the reward model that a policy learned from.

A model elsewhere that compares two has a file of its own (`card_pairs.py`).

Judged after both models have answered, and not kept: a judge may be a program that has no identity to keep it under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from palate.errors import DataError
from palate.evals.alpaca_length import FOLDS, alpaca_length_controlled
from palate.evals.asking.answering import Answered, prompts_of
from palate.evals.card.compared import Row
from palate.evals.protocols.items import Item, Measure, Reply, Said, Scores
from palate.evals.protocols.soundness import pseudo_values
from palate.evals.protocols.wins import Duel, duel, judged_duels, rankings_of
from palate.evals.winrate import length_controlled_of_outcomes
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.lm.batch import Sequences
from palate.lm.decoder import unpaired
from palate.lm.sources.zoo import Precision
from palate.randomness import permutation
from palate.recipe import Reward
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.rollout.engine import SampledTokens
from palate.run.trackers import showing
from palate.stages.common import sharing

EQUAL = Measure(name="won_at_equal_length", label="win rate, at equal length in words", better="higher")
ALPACA = Measure(
    name="won_at_equal_length_alpaca", label="win rate, at equal length by alpaca_eval's model", better="higher"
)
REWARD = Measure(
    name="reward_area", label="the reward model prefers a sound answer to a made-up one", better="higher", unit="area"
)

AT_ONCE = 128
"""Texts that a judge scores between two looks at how far it is."""


def judge_of(term: Reward, precision: Precision, max_tokens: int) -> Mix:
    """What scores responses, as `palate eval`'s."""
    return Mix((term,), precision=precision, max_tokens=max_tokens, settle=sharing([]))


def by_judge(judge: Mix, items: Sequence[Item], after: Sequence[Answered], before: Sequence[Answered]) -> list[Duel]:
    """[N] of the prompts of a section that both models have responded to."""
    prompts = prompts_of(items)
    ours, theirs = ([said_of(each) for each in found] for found in (after, before))
    our_scores, their_scores = (_scores(judge, prompts, said) for said in (ours, theirs))
    return [
        duel([said.text for said in one], [said.text for said in other], *scores)
        for one, other, *scores in zip(ours, theirs, our_scores, their_scores, strict=True)
    ]


def said_of(found: Answered) -> list[Said]:
    """The responses among an item's answers."""
    return [each for each in found.answers if isinstance(each, Said)]


def _scores(judge: Mix, prompts: Sequence[Prompt], said: Sequence[Sequence[Said]]) -> list[Floats]:
    """[M] of each prompt; a model reads the texts anew, and knows which of them were cut off."""
    repeated = [prompt for prompt, texts in zip(prompts, said, strict=True) for _ in texts]
    flat = [each for texts in said for each in texts]

    def scores(part: slice) -> Floats:
        here = flat[part]
        ends = SampledTokens(
            sequences=Sequences.pack([[0]] * len(here), [[0]] * len(here)),
            ended=tuple(each.ended for each in here),
            layout="the text alone",
        )
        return judge(repeated[part], [each.text for each in here], ends).double().numpy()

    found = _some_at_a_time("responses judged", len(flat), scores)
    return list(np.split(found, np.cumsum([len(texts) for texts in said])[:-1]))


def _some_at_a_time(what: str, count: int, scores: Callable[[slice], Floats]) -> Floats:
    """[count] scores, of ``AT_ONCE`` texts in one call, with their progress shown."""
    found = []
    with showing(what) as show:
        for first in range(0, count, AT_ONCE):
            found.append(scores(slice(first, first + AT_ONCE)))
            show(min(first + AT_ONCE, count), count)
    return np.concatenate(found)


def by_rankings(path: Path, model: str, baseline: str, *, limit: int, seed: int) -> tuple[list[Duel], int]:
    """Of a file of judgements: those of at most ``limit`` prompts (0: of all), and how many prompts there are.

    Args:
        model, baseline: hashes of weights.

    Raises:
        DataError: it compares no response of the one with any of the other.
    """
    if model == baseline:
        raise DataError("model and baseline are the same, by their weights: nobody can have compared them", path=path)
    duels = list(judged_duels(rankings_of(path), model, baseline).values())
    places = sorted(permutation(len(duels), seed, "card", "judgements")[: limit or len(duels)].tolist())
    return [duels[place] for place in places], len(duels)


def at_equal_length(section: str, title: str, duels: Sequence[Duel], *, seed: int) -> list[Row]:
    """The win rate's two readings without length; alpaca_eval's where there are as many prompts as it has folds."""
    outcomes = [each.outcomes for each in duels]
    if len({len(each) for each in outcomes}) == 1:
        columns = np.stack(outcomes), np.stack([each.more_words for each in duels])
    else:  # some prompts were judged more often than others: each counts once
        columns = np.array([x.mean() for x in outcomes]), np.array([each.more_words.mean() for each in duels])
    ours = length_controlled_of_outcomes(*columns, seed=seed)
    theirs = Estimate(None)
    if len(duels) >= FOLDS:
        theirs = alpaca_length_controlled(
            np.concatenate(outcomes),
            np.concatenate([each.more_characters for each in duels]),
            np.repeat(np.arange(len(duels)), [len(each) for each in outcomes]),
            seed=seed,
        )
    return [
        Row(section=section, title=title, measure=measure, num_items=len(duels), after=found)
        for measure, found in ((EQUAL, ours), (ALPACA, theirs))
    ]


def by_reward_model(
    judge: Mix, items: Sequence[Item], scores: Sequence[Scores], *, section: str, title: str, seed: int
) -> Row:
    """How often the reward model scores a sound answer above a made-up one, of all such pairs."""
    replies = [each for item in items for each in item.asked if isinstance(each, Reply)]
    prompts, texts = [each.prompt for each in replies], [each.text for each in replies]

    def scored(part: slice) -> Floats:
        return judge(prompts[part], texts[part]).double().numpy()

    with unpaired():
        rewards = _some_at_a_time("answers scored by the reward model", len(texts), scored)
    areas = pseudo_values(rewards, [score["sound"] for score in scores])
    found = ratio_estimate(areas, np.ones(len(areas)), seed=seed, least=0.0, most=1.0)
    if not np.isfinite(areas).all():  # all of one kind
        found = Estimate(None)
    return Row(section=section, title=title, measure=REWARD, num_items=len(items), after=found)


def with_outcomes(found: Sequence[Answered], scores: Sequence[Scores]) -> list[Answered]:
    """Answers, and what the judge made of them."""
    return [Answered(score, each.answers) for each, score in zip(found, scores, strict=True)]


def unanswered(duels: Sequence[Duel], scores: Mapping[str, float] | None = None) -> list[Answered]:
    """Of judgements that were there already: no answers of ours."""
    return [Answered(each.scores if scores is None else scores, ()) for each in duels]
