"""Labelers whom a reward never met, where it is known what they want and how carefully they look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.experiments.labels.planted import judged

from palate.errors import DataError
from palate.experiments.labels.judgement_table import Judgements
from palate.experiments.labels.strangers import (
    by_labeler,
    dealt,
    foretell,
    majority_of,
    others_agree,
    skill_weights,
)
from palate.randomness import normals, permutation

PEOPLE, PER_ITEM = 10, 4


def crowd(*, own: float, careless: int, items: int = 300, seed: int = 0) -> Judgements:
    """Ten people judge 300 items, four of them each; so much of their taste is their own, so many choose by lot."""
    person = np.concatenate([permutation(PEOPLE, seed, "asked", item)[:PER_ITEM] for item in range(items)])
    item = np.repeat(np.arange(items), PER_ITEM)
    x = normals(items * 6, seed, "x").reshape(items, 6)[item]
    tastes = normals(6, seed, "taste") + own * normals(PEOPLE * 6, seed, "own").reshape(PEOPLE, 6)
    skill = np.where(np.arange(PEOPLE) < careless, 0.0, 3.0)
    return judged(x, tastes[person], group=item % 10, labeler=person, skill=skill[person], item=item, seed=seed)


def test_people_with_tastes_of_their_own_are_foretold_better_once_they_were_met() -> None:
    judgements = crowd(own=1.5, careless=0)
    told = [foretell(judgements, seed, folds=5, methods=["plain"]) for seed in range(2)]
    gap = by_labeler(told, [each.seen["plain"] for each in told], [each.unseen["plain"] for each in told])
    assert gap.low is not None
    assert gap.low > 0
    mixed = replace(judgements, labeler=judgements.labeler[permutation(len(judgements.labeler), 0, "mixed")])
    told = [foretell(mixed, seed, folds=5, methods=["plain"]) for seed in range(2)]
    gap = by_labeler(told, [each.seen["plain"] for each in told], [each.unseen["plain"] for each in told])
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < 0 < gap.high


def test_people_of_one_taste_are_foretold_alike_and_skills_are_found() -> None:
    judgements = crowd(own=0.0, careless=4)
    told = [foretell(judgements, 0, folds=5)]
    seen, unseen = told[0].seen, told[0].unseen
    assert abs(by_labeler(told, [seen["plain"]], [unseen["plain"]]).value) < 0.02  # type: ignore[operator]
    careful = told[0].labeler >= 4
    assert unseen["plain"][careful].mean() > 0.85
    assert unseen["plain"][~careful].mean() == pytest.approx(0.5, abs=0.06)
    weights = skill_weights(judgements, np.arange(len(judgements.outcome)))
    assert weights[:4].max() < 0.5 < weights[4:].min()
    assert weights.mean() == pytest.approx(1.0)
    votes = {name: right[careful] for name, right in told[0].votes.items()}
    assert np.nanmean(votes["weighted majority"]) > np.nanmean(votes["majority"]) + 0.03


def test_the_same_judgements_are_on_both_sides_and_nothing_is_told_by_who_has_seen_it() -> None:
    judgements = crowd(own=0.0, careless=0, items=60)
    told = foretell(judgements, 3, folds=3, methods=["plain", "majority"])
    assert (told.pair == np.flatnonzero(judgements.outcome != 0.5)).all()
    for side in (told.seen, told.unseen):
        assert set(np.unique(side["plain"])) <= {0.0, 0.5, 1.0}

    # turn round everything that is said of the items of one fold: rewards that are measured on them are the same
    fold = dealt(10, 3, 3, "prompts")[judgements.group] == 0
    turned = replace(judgements, outcome=np.where(fold, 1 - judgements.outcome, judgements.outcome))
    again = foretell(turned, 3, folds=3, methods=["plain", "majority"])
    for method in ("plain", "majority"):
        assert again.unseen[method][fold] == pytest.approx(1 - told.unseen[method][fold])
        assert again.seen[method][fold] == pytest.approx(1 - told.seen[method][fold])


def test_a_stranger_is_a_stranger() -> None:
    """What one labeler says does not touch how rewards that never met them foretell them."""
    judgements = crowd(own=0.0, careless=0, items=60)
    theirs = judgements.labeler == 7
    turned = replace(judgements, outcome=np.where(theirs, 1 - judgements.outcome, judgements.outcome))
    told, again = (foretell(each, 0, folds=5, methods=["plain"]) for each in (judgements, turned))
    assert again.unseen["plain"][theirs] == pytest.approx(1 - told.unseen["plain"][theirs])
    assert not np.allclose(again.seen["plain"][theirs], 1 - told.seen["plain"][theirs])
    assert again.votes["majority"][theirs] == pytest.approx(1 - told.votes["majority"][theirs], nan_ok=True)


def test_a_majority_by_hand() -> None:
    """Three say of item 0 the first, the first, the second; two of item 1 one each; one of item 2 calls a tie."""
    judgements = judged(np.ones((6, 2)), np.ones(2), group=np.array([0] * 6), item=np.array([0, 0, 0, 1, 1, 2]))
    judgements = replace(judgements, outcome=np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.5]))
    first, verdict = majority_of(judgements, np.arange(6), np.ones(6))
    assert (judgements.item[judgements.judgement[first]].tolist(), verdict.tolist()) == ([0, 1, 2], [1.0, 0.0, 0.0])
    _, verdict = majority_of(judgements, np.arange(6), np.array([1.0, 1.0, 3.0, 1.0, 2.0, 1.0]))
    assert verdict.tolist() == [-1.0, -1.0, 0.0]


def test_agreement_by_hand() -> None:
    """On item 0 two of three pairs of people disagree; a tie of item 1 is left out, so the other is alone."""
    judgements = judged(
        np.ones((5, 2)), np.ones(2), group=np.zeros(5, dtype=np.int64), item=np.array([0, 0, 0, 1, 1]),
        labeler=np.array([0, 1, 2, 0, 1]),
    )  # fmt: skip
    judgements = replace(judgements, outcome=np.array([1.0, 1.0, 0.0, 1.0, 0.5]))
    assert others_agree(judgements).value == pytest.approx(1 / 3)


def test_a_share_is_over_judgements_and_its_interval_over_people() -> None:
    told = foretell(crowd(own=0.0, careless=0, items=40), 0, folds=2, methods=["plain"])
    by_person = (told.labeler < 5).astype(float)  # five are always foretold, five never
    found = by_labeler([told, told], [by_person, by_person])
    assert found.value == pytest.approx(by_person.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 0.5  # ten people, not 160 judgements
    half = np.where(told.labeler == 0, np.nan, 1.0)
    assert by_labeler([told], [half]).value == 1.0  # what is not known is left out


def test_more_folds_than_people_is_a_mistake() -> None:
    with pytest.raises(DataError, match="10 labelers cannot be dealt into 11 folds"):
        foretell(crowd(own=0.0, careless=0, items=12), 0, folds=11)
