"""Which items to have judged next: ways to choose them, each a function of the pool and of what is known so far.

    random      by lot
    uncertain   where an ensemble's members contradict each other most
    entropy     where one reward model is least sure
    diverse     where responses differ from what was judged before; no model is asked
    one by one  the ensemble's contradictions, each given the items chosen before it: uncertain and varied
    both        of the most uncertain, four times as many as are wanted, the most diverse

    certain     where the ensemble agrees most: a control that should lose
    shuffled    contradictions dealt out to other items: a control that should do as well as chance
    oracle      what would lower the loss on the held-out labels most, by influence (Koh and Liang 2017, arXiv
                1703.04730): it knows all labels, and shows how much there is to gain

The acquisition functions themselves, which the studio uses too, are in `acquisition.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import entr, expit

from palate.experiments.labels.linear import Indices, ensemble, fit, information
from palate.intervals import Floats
from palate.objectives.acquisition import contradictions, one_by_one
from palate.randomness import permutation

RIDGE = 10.0
"""Inverse variance of the prior of a linear reward's head, in units of the leading component; chosen on
arguments (`convarg`), among several from 3 to 300, and then left alone on `llmfao`."""
MEMBERS = 8
"""Of an ensemble."""
SHORTLIST = 4
"""Times as many of the most uncertain as are wanted; the most diverse of them are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """I items, each with the one judgement that somebody who is asked would give, as P pairs.

    Attributes:
        x: [P, D] features of a pair's first response minus the second's.
        outcome, weight: [P] as in `Judgements`.
        item: [P] 0 to I - 1, in increasing order.
        held_out_x, held_out_outcome: of the pairs that rewards are measured on, for the oracle alone.
    """

    x: Floats
    outcome: Floats
    weight: Floats
    item: Indices
    held_out_x: Floats
    held_out_outcome: Floats

    @property
    def num_items(self) -> int:
        """I."""
        return int(self.item[-1]) + 1

    def pairs_of(self, items: Indices) -> Indices:
        """The pairs of some items."""
        return np.flatnonzero(np.isin(self.item, items))

    def learned(self, items: Indices) -> Floats:
        """[D] the reward that is learned from the judgements of some items."""
        pairs = self.pairs_of(items)
        return fit(self.x[pairs], self.outcome[pairs], weight=self.weight[pairs], ridge=RIDGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a choice may depend on.

    Attributes:
        labelled: items whose judgement is known.
        count: how many more are wanted.
        key: what chance depends on.
    """

    pool: Pool
    labelled: Indices
    count: int
    key: tuple[int | str, ...]

    @property
    def waiting(self) -> Indices:
        """The items that can be asked, in increasing order."""
        return np.setdiff1d(np.arange(self.pool.num_items), self.labelled)

    def members(self) -> Floats:
        """[M, D] the ensemble learned from what is known."""
        pairs = self.pool.pairs_of(self.labelled)
        _, judgement = np.unique(self.pool.item[pairs], return_inverse=True)
        return ensemble(
            self.pool.x[pairs],
            self.pool.outcome[pairs],
            judgement,
            weight=self.pool.weight[pairs],
            ridge=RIDGE,
            members=MEMBERS,
            key=(*self.key, len(self.labelled)),
        )

    def contradictions(self) -> Floats:
        """[P, M] of the ensemble, about every pair."""
        return contradictions(self.pool.x @ self.members().T, 1 / self.pool.weight)

    def by_item(self, of_pairs: Floats) -> Floats:
        """[W] the sum over the pairs of every waiting item."""
        whole = np.bincount(self.pool.item, weights=of_pairs, minlength=self.pool.num_items)
        return np.asarray(whole[self.waiting])


Strategy = Callable[[State], Indices]
"""Which of the waiting items to ask, `count` of them."""


def at_random(state: State) -> Indices:
    """By lot."""
    waiting = state.waiting
    drawn: Indices = waiting[permutation(len(waiting), *state.key, "random", len(state.labelled))[: state.count]]
    return drawn


def uncertain(state: State) -> Indices:
    """Where members contradict each other most."""
    return _most(state, _doubts(state))


def certain(state: State) -> Indices:
    """Where they agree most."""
    return _most(state, -_doubts(state))


def shuffled(state: State) -> Indices:
    """Contradictions of other items."""
    doubts = _doubts(state)
    return _most(state, doubts[permutation(len(doubts), *state.key, "shuffled", len(state.labelled))])


def least_sure(state: State) -> Indices:
    """Where the one reward model is nearest to one half; of such items the entropy is highest."""
    pool = state.pool
    claim = expit(pool.x @ pool.learned(state.labelled))
    return _most(state, state.by_item(pool.weight * entr([claim, 1 - claim]).sum(0)))


def diverse(state: State) -> Indices:
    """What is furthest from being told by what was judged."""
    return _spread_out(state, state.waiting)


def varied(state: State) -> Indices:
    """The most contradictory, given the others that are chosen."""
    pairs = state.pool.pairs_of(state.waiting)
    chosen = one_by_one(state.contradictions()[pairs], state.pool.item[pairs], count=state.count)
    return np.array(list(chosen), dtype=np.int64)


def both(state: State) -> Indices:
    """The most diverse of the most contradictory."""
    return _spread_out(state, uncertain(replace(state, count=SHORTLIST * state.count)))


def oracle(state: State) -> Indices:
    """What would lower the held-out loss most, judgements and held-out labels being known."""
    pool = state.pool
    head, known = pool.learned(state.labelled), pool.pairs_of(state.labelled)
    curvature = information(pool.x[known], expit(pool.x[known] @ head), pool.weight[known], RIDGE)
    wrong = pool.held_out_outcome - expit(pool.held_out_x @ head)
    direction = np.linalg.solve(curvature, pool.held_out_x.T @ wrong)
    gains = pool.weight * (pool.outcome - expit(pool.x @ head)) * (pool.x @ direction)
    return _most(state, state.by_item(gains))


STRATEGIES: Mapping[str, Strategy] = {
    "random": at_random,
    "uncertain": uncertain,
    "entropy": least_sure,
    "diverse": diverse,
    "one by one": varied,
    "both": both,
}
CONTROLS: Mapping[str, Strategy] = {"certain": certain, "shuffled": shuffled, "oracle": oracle}


def _doubts(state: State) -> Floats:
    """[W] the ensemble's disagreement about every waiting item."""
    return state.by_item((state.contradictions() ** 2).sum(1))


def _most(state: State, values: Floats) -> Indices:
    """The waiting items with the greatest values [W]; of equal ones the first."""
    chosen: Indices = state.waiting[np.argsort(-values, kind="stable")[: state.count]]
    return chosen


def _spread_out(state: State, among: Indices) -> Indices:
    """Of some items those that together tell most of a reward that nobody knows yet (D-optimal design)."""
    pool = state.pool
    known, waiting = pool.pairs_of(state.labelled), pool.pairs_of(among)
    told = information(pool.x[known], np.full(len(known), 0.5), pool.weight[known], RIDGE)
    rows = pool.x[waiting] * np.sqrt(pool.weight[waiting, None]) / 2  # a claim of one half has variance 1 / 4
    return np.array(list(one_by_one(rows, pool.item[waiting], known=told, count=state.count)), dtype=np.int64)
