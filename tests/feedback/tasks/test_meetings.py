"""Meetings: compared by hand, the same as `agreement`, and what does not count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.feedback.judging import judge
from tests.feedback.world import LEASE, NOW, World

from palate.feedback.statistics.pairwise_agreement import agreement
from palate.feedback.store.tables import Item, User
from palate.feedback.tasks import meetings
from palate.feedback.tasks.meetings import Opinion, compare
from palate.records import Prompt, Ranking, Response

RANKS = st.lists(st.integers(1, 4), min_size=4, max_size=4)


def opinion(number: int, user: str, item: str, ranks: tuple[int, ...], at: float = NOW) -> Opinion:
    return Opinion(number=number, user_id=user, item_id=item, prompt_id=item, batch_id="b", at=at, ranks=ranks)


def test_two_rankings_by_hand() -> None:
    assert compare((1, 2, 3), (1, 2, 3)) == 3
    assert compare((1, 2, 3), (3, 2, 1)) == 0
    assert compare((1, 2, 3), (2, 1, 3)) == 2  # only the first pair is turned round
    assert compare((1, 2, 3), (1, 1, 3)) == 2.5  # a tie against a preference
    assert compare((1, 1, 2), (1, 1, 2)) == 3  # both call the same tie
    assert compare((2, 4), (1, 9)) == 1  # only the order counts


@given(RANKS, RANKS)
def test_comparing_is_symmetric_and_bounded(one: list[int], other: list[int]) -> None:
    assert compare(one, other) == compare(other, one)
    assert 0 <= compare(one, other) <= compare(one, one) == 6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), RANKS), max_size=6, unique_by=lambda t: t[:2]))
def test_the_share_is_the_percentage_of_agreement(said: list[tuple[str, str, list[int]]]) -> None:
    opinions = [opinion(n, who, item, tuple(ranks)) for n, (who, item, ranks) in enumerate(said)]
    texts = tuple(Response(text=text) for text in "pqrs")
    rankings = [
        Ranking(prompt=Prompt.from_text(item), responses=texts, ranks=_best_first(ranks), labeler=who)
        for who, item, ranks in said
    ]
    expected = agreement(rankings, resamples=2)
    met = meetings.meetings(opinions)
    assert meetings.share(met) == pytest.approx(expected.percent)
    assert sum(meeting.num_pairs for meeting in met) == expected.num_comparisons
    for labeler in expected.labelers:
        of_one = meetings.by_person(met).get(labeler.name, [])
        assert meetings.share(of_one) == pytest.approx(labeler.agreement.value)


def _best_first(ranks: list[int]) -> tuple[int, ...]:
    return tuple(rank - min(ranks) + 1 for rank in ranks)


def test_contested_items_come_worst_first() -> None:
    same, opposite, half = (1, 2), (2, 1), (1, 1)
    said = [
        opinion(1, "ann", "agreed", same),
        opinion(2, "bob", "agreed", same),
        opinion(3, "ann", "split", same),
        opinion(4, "bob", "split", opposite),
        opinion(5, "ann", "unsure", same),
        opinion(6, "bob", "unsure", half),
        opinion(7, "ann", "alone", same),
    ]
    found = [(item.item_id, item.num_labelers, item.disagreement) for item in meetings.contested(said)]
    assert found == [("split", 2, 1.0), ("unsure", 2, 0.5), ("agreed", 2, 0.0)]


def test_over_time_by_day_and_by_number() -> None:
    day = meetings.DAY
    said = [
        opinion(1, "ann", "one", (1, 2), at=0.0),
        opinion(2, "bob", "one", (1, 2), at=10.0),  # the same, on the first day
        opinion(3, "ann", "two", (1, 2), at=20.0),
        opinion(4, "bob", "two", (2, 1), at=day + 5),  # the opposite, on the second
        opinion(5, "eve", "two", (2, 1), at=day + 9),  # agrees with bob and not with ann
    ]
    met = meetings.meetings(said)
    days = meetings.over_time(met)
    assert [(p.num_meetings, p.agreement.value) for p in days] == [(1, 1.0), (3, pytest.approx(1 / 3))]
    assert (days[1].start, days[1].end) == (day + 5, day + 9)
    halves = meetings.over_time(met, every=2)
    assert [(p.num_meetings, p.agreement.value) for p in halves] == [(2, 0.5), (2, 0.5)]


def ranked(world: World, **plan: object) -> tuple[Item, User, User]:
    batch = world.batch(overlap=2, **plan)
    return world.item(batch), world.user("ann"), world.user("bob")


def opinions_of(world: World) -> list[tuple[str, tuple[int, ...]]]:
    with world.store.read() as session:
        return [(said.user_id, said.ranks) for said in meetings.opinions(session)]


def test_opinions_are_read_by_response_in_the_order_of_the_log(world: World) -> None:
    item, ann, bob = ranked(world)
    judge(world.store, ann, {item.id: (1, 2, 3)})
    judge(world.store, bob, {item.id: (3, 1, 1)})
    assert opinions_of(world) == [(ann.id, (1, 2, 3)), (bob.id, (2, 1, 1))]


def test_what_was_taken_back_is_no_opinion(world: World) -> None:
    item, ann, bob = ranked(world)
    line = judge(world.store, ann, {item.id: (1, 2, 3)})[item.id]
    judge(world.store, bob, {item.id: (1, 2, 3)})
    world.withdraw(ann, line)
    assert [user for user, _ in opinions_of(world)] == [bob.id]


def test_tests_and_late_judgements_are_no_opinions(world: World) -> None:
    ann, bob, eve = (world.user(name) for name in ("ann", "bob", "eve"))
    test = world.batch("test", is_screening=True, threshold=0.75)
    asked = world.item(test, gold=(1, 2, 3))
    judge(world.store, eve, {asked.id: (1, 2, 3)}, now=NOW)
    assert opinions_of(world) == []
    with world.store.write() as session:
        for user in (ann, bob):
            session.get_one(User, user.id).screening = "passed"
    item = world.item(world.batch(overlap=1))
    late = world.claimed(ann, NOW)
    judge(world.store, bob, {item.id: (1, 2, 3)}, now=NOW + LEASE + 1)
    world.submit(late, (1, 2, 3), now=NOW + LEASE + 2, confirmed=True)
    assert world.task(late).is_surplus
    assert [user for user, _ in opinions_of(world)] == [bob.id]
