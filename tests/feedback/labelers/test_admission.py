"""Screening: marks by hand, and a decision that is made once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from tests.feedback.world import NOW, World, together

from palate.feedback.labelers import admission
from palate.feedback.labelers.admission import ItemResult, Result
from palate.feedback.store.tables import Batch, Event, Item, Judgement, User
from palate.feedback.tasks import judgements, queue

RANKS = st.lists(st.integers(1, 5), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("gold", "ranks", "right", "pairs"),
    [
        ([1, 2, 3], [1, 2, 3], 3, 3),
        ([1, 2, 3], [3, 2, 1], 0, 3),
        ([1, 2, 3], [1, 1, 1], 1.5, 3),
        ([1, 2, 3], [2, 1, 3], 2, 3),
        ([1, 2, 3], [1, 1, 2], 2.5, 3),
        ([1, 1, 2], [1, 2, 3], 2, 2),  # the known tie asks nothing
        ([2, 1], [4, 9], 0, 1),
        ([1, 2, 2, 3], [1, 3, 2, 2], 3 + 0 + 0.5, 5),  # 1<2 yes, 1<3 yes, 1<4 yes, 2<4 no, 3<4 tied
    ],
)
def test_marks_by_hand(gold: list[int], ranks: list[int], right: float, pairs: int) -> None:
    assert admission.mark("x", gold, ranks) == ItemResult(item_id="x", right=right, pairs=pairs)


@given(st.data())
def test_marks_do_not_depend_on_names_of_ranks_or_order(data: st.DataObject) -> None:
    gold = data.draw(RANKS)
    ranks = data.draw(st.lists(st.integers(1, 5), min_size=len(gold), max_size=len(gold)))
    result = admission.mark("x", gold, ranks)
    order = data.draw(st.permutations(range(len(gold))))
    assert admission.mark("x", [gold[i] for i in order], [7 * ranks[i] for i in order]) == result
    mirrored = admission.mark("x", gold, [-rank for rank in ranks])
    assert result.right + mirrored.right == result.pairs
    assert admission.mark("x", gold, gold).right == result.pairs


def test_a_result_counts_pairs_not_items() -> None:
    items = (ItemResult(item_id="a", right=1, pairs=1), ItemResult(item_id="b", right=3.5, pairs=6))
    result = Result(items=items, threshold=0.625)
    assert result.agreement == 4.5 / 7
    assert result.passed
    assert result.margin == 4.5 / 7 - 0.625
    assert result.below == (items[1],)


@pytest.mark.parametrize(("right", "pairs", "threshold"), [(7, 10, 0.7), (10.5, 15, 0.7), (6, 8, 0.75), (1, 3, 1 / 3)])
def test_reaching_the_threshold_exactly_is_enough(right: float, pairs: int, threshold: float) -> None:
    assert Result(items=(ItemResult(item_id="a", right=right, pairs=pairs),), threshold=threshold).passed
    assert not Result(items=(ItemResult(item_id="a", right=right - 0.5, pairs=pairs),), threshold=threshold).passed


def in_place(world: World, user: User, item_gold: list[int], item_id: str) -> list[int]:
    """Ranks by place on the screen that say ``item_gold`` of the responses."""
    with world.store.read() as session:
        order = queue.shown_order(session.get_one(Item, item_id), user.id)
    return [item_gold[response] for response in order]


def make_test(world: World, golds: list[list[int]], **plan: object) -> Batch:
    batch = world.batch("test", is_screening=True, **{"threshold": 0.75, **plan})
    for number, gold in enumerate(golds):
        world.item(batch, number, gold=gold, k=len(gold))
    return batch


def answer(world: World, user: User, said: list[int], batch: Batch) -> Result | None:
    """Answer the next item with ranks by response, and settle, as the app does in one transaction."""
    task = world.claimed(user)
    form = judgements.RankingForm(ranks=tuple(in_place(world, user, said, task.item_id)), confirmed=True)
    with world.store.write() as session:
        task = queue.task_of(session, user, task.id)
        judgements.submit_ranking(session, user, task, form, now=NOW)
        return admission.settle(session, user, batch)


def outcome(world: World, user: User) -> str | None:
    with world.store.read() as session:
        return session.get_one(User, user.id).screening


def test_passing(world: World) -> None:
    ann = world.user("ann")
    batch = make_test(world, [[1, 2, 3], [2, 1]])
    work = world.item(world.batch("work", created=NOW + 1))
    assert answer(world, ann, [1, 2, 3], batch) is None
    assert outcome(world, ann) is None
    result = answer(world, ann, [1, 1], batch)
    assert result is not None
    assert [(item.right, item.pairs) for item in result.items] == [(3, 3), (0.5, 1)]
    assert (result.agreement, result.passed, result.margin) == (3.5 / 4, True, 0.125)
    assert [item.agreement for item in result.below] == [0.5]
    assert outcome(world, ann) == "passed"
    assert world.claimed(ann).item_id == work.id
    with world.store.read() as session:
        assert session.scalars(select(Event.action)).all() == ["screening passed"]


def test_failing(world: World) -> None:
    ann = world.user("ann")
    batch = make_test(world, [[1, 2], [1, 2]])
    answer(world, ann, [1, 2], batch)
    result = answer(world, ann, [2, 1], batch)
    assert result is not None
    assert result.agreement == 0.5
    assert outcome(world, ann) == "failed"


def test_it_is_decided_once(world: World) -> None:
    ann = world.user("ann")
    batch = make_test(world, [[1, 2]])
    answer(world, ann, [2, 1], batch)
    with world.store.write() as session:
        line = session.scalars(select(Judgement)).one()
        judgements.withdraw(session, ann, line, now=NOW)
        assert admission.result_of(session, ann, batch) is None
        task = queue.task_of(session, ann, line.task_id or "")
        right = judgements.RankingForm(ranks=tuple(in_place(world, ann, [1, 2], task.item_id)), confirmed=True)
        judgements.submit_ranking(session, ann, task, right, now=NOW)
        assert admission.settle(session, ann, batch) is None
        changed = admission.result_of(session, ann, batch)
        assert changed is not None
        assert changed.passed
    assert outcome(world, ann) == "failed"


def test_what_was_corrected_before_the_end_counts(world: World) -> None:
    ann = world.user("ann")
    batch = make_test(world, [[1, 2], [1, 2]])
    answer(world, ann, [2, 1], batch)
    with world.store.write() as session:
        line = session.scalars(select(Judgement)).one()
        right = judgements.RankingForm(ranks=tuple(in_place(world, ann, [1, 2], line.item_id or "")), confirmed=True)
        judgements.correct_ranking(session, ann, line, right, now=NOW)
    result = answer(world, ann, [1, 2], batch)
    assert result is not None
    assert result.agreement == 1.0


def test_others_and_other_work_do_not_count(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    batch = make_test(world, [[1, 2]])
    work = world.batch("work")
    with world.store.write() as session:
        assert admission.settle(session, ann, work) is None
    answer(world, bob, [1, 2], batch)
    with world.store.write() as session:
        assert admission.settle(session, ann, batch) is None
    assert outcome(world, ann) is None


def test_only_labelers_are_tested(world: World) -> None:
    chief = world.user("chief", "admin")
    batch = make_test(world, [[1, 2]])
    with world.store.write() as session:
        assert not queue.must_be_screened(session, chief)
        assert admission.settle(session, chief, batch) is None


def test_a_part_of_the_test_for_each(world: World) -> None:
    ann = world.user("ann")
    batch = make_test(world, [[1, 2], [1, 2], [1, 2]], per_labeler=2)
    assert answer(world, ann, [1, 2], batch) is None
    result = answer(world, ann, [1, 2], batch)
    assert result is not None
    assert len(result.items) == 2


def test_the_last_two_answers_at_once(world: World) -> None:
    """Whichever transaction comes second sees both answers, so the test is settled."""
    ann = world.user("ann")
    batch = make_test(world, [[1, 2], [1, 2]])
    first = world.claimed(ann)
    line = world.submit(first, (1, 2), confirmed=True)
    tasks = [first, world.claimed(ann)]
    world.withdraw(ann, line)  # both are in hand now
    form = judgements.RankingForm(ranks=(1, 2), confirmed=True)

    def hand_in(task_id: str) -> Result | None:
        with world.store.write() as session:
            judgements.submit_ranking(session, ann, queue.task_of(session, ann, task_id), form, now=NOW)
            return admission.settle(session, ann, batch)

    results = together([lambda task=task: hand_in(task.id) for task in tasks])
    assert [result is None for result in results].count(True) == 1
    assert outcome(world, ann) in ("passed", "failed")
