"""Thumbs of chosen and of random answers: counted as stated, on both databases, with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from tests.feedback.talk import Talk
from tests.feedback.world import World

from palate.feedback.chat import exchanges, lots, reactions
from palate.feedback.chat.reactions import ThumbForm
from palate.feedback.store.tables import ChatMessage
from palate.intervals import wilson
from palate.records import Provenance, Selection

UP, DOWN = ThumbForm(up=True), ThumbForm(up=False)


def answered(talk: Talk, *, at_random: bool, share: float = 0.5) -> ChatMessage:
    """An answer out of two."""
    ask = talk.do(exchanges.say, "And?")
    selection = Selection(
        texts=("a", "b"),
        scores=(1.0, 0.0),
        chosen=int(at_random),
        at_random=at_random,
        random_share=share,
        kl_bound=0.2,
    )
    with talk.store.write() as session:
        drawn = Provenance(model="tiny", seed=ask.seed, selection=selection)
        exchanges.end(session, ask.answers[0].message_id, "b" if at_random else "a", "done", drawn)
    return talk.last


def test_rates_and_their_difference(world: World) -> None:
    first, second = (Talk(world, world.user(name, role="chat"), consent=True) for name in ("ada", "bob"))
    for talk, ups in ((first, (UP, UP, DOWN)), (second, (UP,))):
        for form in ups:
            talk.react(reactions.thumb, answered(talk, at_random=False), form)
    for talk, form in ((first, DOWN), (second, UP), (second, DOWN), (second, DOWN)):
        talk.react(reactions.thumb, answered(talk, at_random=True), form)
    answered(first, at_random=True)  # without a thumb
    with world.store.read() as session:
        found = lots.compared(session)
    assert (found.chosen.value, found.random.value, found.difference.value) == (3 / 4, 1 / 4, 1 / 2)
    assert (found.num_chosen, found.num_random, found.conversations) == (4, 4, 2)


def test_what_does_not_count(world: World) -> None:
    talk = Talk(world, world.user("ada", role="chat"), consent=False)
    talk.react(reactions.thumb, answered(talk, at_random=False, share=0.0), UP)  # could not have fallen to the lot
    taken_back = answered(talk, at_random=True)
    talk.react(reactions.thumb, taken_back, UP)
    talk.react(lambda session, user, _, answer: reactions.take_back(session, user, answer, "thumb"), taken_back)
    talk.say("Hello", "drawn alone")
    talk.react(reactions.thumb, talk.last, UP)
    changed = answered(talk, at_random=True)
    talk.react(reactions.thumb, changed, UP)
    talk.react(reactions.thumb, changed, DOWN)  # it could be read by then that it was taken at random
    with world.store.read() as session:
        found = lots.compared(session)
    assert (found.random.value, found.num_random, found.chosen.value, found.num_chosen) == (1.0, 1, None, 0)
    assert (found.difference.value, found.conversations) == (None, 1)


def test_nothing_yet(world: World) -> None:
    with world.store.read() as session:
        found = lots.compared(session)
    assert (found.chosen.value, found.difference.value, found.conversations) == (None, None, 0)


@pytest.mark.parametrize("conversations", [5, 40])
def test_the_interval_of_the_difference_covers(conversations: int) -> None:
    """People differ in how easily they are pleased; choosing adds 0.2 to everybody."""
    numbers = np.random.default_rng(2)
    covered, trials = 0, 60
    for _ in range(trials):
        pleased = numbers.uniform(0.1, 0.7, conversations)
        totals = np.full(conversations, 8)
        tables = [
            np.array([[numbers.binomial(total, rate + 0.2), total], [numbers.binomial(total, rate), total]], float)
            for rate, total in zip(pleased, totals, strict=True)
        ]
        found = lots.of_counts(tables).difference
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
    low = wilson(covered, trials).high
    assert low is not None
    assert low >= 0.95
