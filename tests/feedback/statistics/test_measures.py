"""Numbers about a part of the log: exact on a small case, everything accounted for, and kept until the log grows."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select
from tests.feedback.judging import judge, places
from tests.feedback.world import NOW, World

from palate.errors import DataError
from palate.feedback.labelers import reviewing
from palate.feedback.statistics import measures
from palate.feedback.statistics.measures import Memory, View
from palate.feedback.store.tables import Item, Judgement, Round, Task, User
from palate.feedback.tasks import judgements
from palate.records import Prompt, Ranking, Response


def collected(world: World, **view: object) -> measures.Collected:
    with world.store.read() as session:
        return measures.collect(session, View(**view))  # type: ignore[arg-type]


def two_by_two(world: World, **plan: object) -> list[Item]:
    """Ann and Bob on two items: the same on the first, the opposite on the second."""
    ann, bob = world.user("ann"), world.user("bob")
    items = world.items(world.batch(overlap=2, **plan), 2)
    judge(world.store, ann, {items[0].id: (1, 2, 3), items[1].id: (1, 2, 3)})
    judge(world.store, bob, {items[0].id: (1, 2, 3), items[1].id: (3, 2, 1)})
    return items


def test_numbers_by_hand(world: World) -> None:
    items = two_by_two(world)
    numbers = measures.measure(collected(world))
    assert (numbers.num_judgements, numbers.num_people, numbers.num_alone, numbers.left_out) == (4, 2, 0, {})
    assert numbers.agreement.percent == 0.5
    assert numbers.agreement.tau_b.value == 0.0  # 1 on the one, -1 on the other
    assert [(i.item_id, i.disagreement) for i in numbers.items] == [(items[1].id, 1.0), (items[0].id, 0.0)]
    (period,) = numbers.over_time
    assert (period.num_meetings, period.agreement.value) == (2, 0.5)


def test_every_line_is_used_or_accounted_for(world: World) -> None:
    items = two_by_two(world)
    store, rae = world.store, world.user("rae", "reviewer")
    alone = world.item(world.batch("alone", created=NOW + 1), 9)
    ann = _user(world, "ann")
    line = judge(store, ann, {alone.id: (1, 2, 3)})[alone.id]
    demonstrated = world.batch("demos", kind="demonstration", created=NOW + 2)
    world.item(demonstrated, k=0)
    with store.write() as session:
        reviewing.decide(session, rae, items[1].id, "settle", ranks=places(store, rae, items[1], (1, 2, 2)))
        prompt = Prompt.from_text("hello")
        thumb = Ranking(prompt=prompt, responses=(Response(text="hi"),), ranks=(1,), ratings=(7,), labeler="ann")
        judgements.append(session, "thumb", thumb.model_dump(mode="json", exclude_defaults=True), ann)
        line = session.get_one(Judgement, line.number)
        form = judgements.RankingForm(ranks=(1, 1, 2), seconds=50, confirmed=True)
        judgements.correct_ranking(session, ann, line, form)
    task = world.claimed(ann)
    with store.write() as session:
        written = judgements.DemonstrationForm(text="like this")
        judgements.submit_demonstration(session, ann, session.get_one(Task, task.id), written)
    numbers = measures.measure(collected(world))
    assert numbers.left_out == {"demonstration": 1, "chat": 1, "changed": 1, "review": 1}
    assert (numbers.num_judgements, numbers.num_alone) == (5, 1)
    assert numbers.num_judgements + sum(numbers.left_out.values()) == world.count(Judgement)
    assert numbers.agreement.percent == 0.5
    assert set(numbers.left_out) <= set(measures.LEFT_OUT)


def _user(world: World, name: str) -> User:
    with world.store.read() as session:
        return session.scalars(select(User).where(User.name == name)).one()


def test_screening_and_surplus_are_accounted_for(world: World) -> None:
    ann, eve = world.user("ann", screening="passed"), world.user("eve")
    test = world.item(world.batch("test", is_screening=True, threshold=0.5), gold=(1, 2, 3))
    judge(world.store, eve, {test.id: (1, 2, 3)})
    assert collected(world).left_out == {"screening": 1}
    item = world.item(world.batch("late", created=NOW + 1))
    line = judge(world.store, ann, {item.id: (1, 2, 3)})[item.id]
    with world.store.write() as session:
        session.get_one(Task, line.task_id).is_surplus = True
    assert collected(world).left_out == {"screening": 1, "surplus": 1}
    assert collected(world).rankings == ()


def test_views_choose_batches(world: World) -> None:
    world.add(Round(number=3, name="third", policy_id=None, created_at=NOW, closed_at=None))
    two_by_two(world, round_number=3)
    ann = _user(world, "ann")
    pair = world.batch("pairs", kind="pair", created=NOW + 1)
    item = world.item(pair, 5, k=2)
    judge(world.store, ann, {item.id: (2, 1)})
    sizes = {
        view: len(collected(world, **{name: value}).rankings)
        for view, (name, value) in {
            "all": ("batch_id", None), "batch": ("batch_id", pair.id), "round": ("round_number", 3),
            "kind": ("kind", "pair"), "none": ("kind", "arena"),
        }.items()
    }  # fmt: skip
    assert sizes == {"all": 5, "batch": 1, "round": 4, "kind": 1, "none": 0}


def test_people_are_known_by_the_name_of_today(world: World) -> None:
    two_by_two(world)
    with world.store.write() as session:
        session.get_one(User, _user(world, "ann").id).name = "anna"
    numbers = measures.measure(collected(world))
    assert [labeler.name for labeler in numbers.agreement.labelers] == ["anna", "bob"]


def ranking(prompt: str, order: tuple[int, ...], ranks: tuple[int, ...], labeler: str = "ann") -> Ranking:
    texts = tuple(Response(text=str(i)) for i in range(len(ranks)))
    return Ranking(
        prompt=Prompt.from_text(prompt), responses=texts, ranks=ranks, shown_order=order, labeler=labeler
    )  # fmt: skip


def test_how_often_the_first_wins() -> None:
    first = ranking("one", (1, 0), (2, 1))  # response 1 was shown first and preferred
    second = ranking("two", (0, 1), (2, 1))
    tied = ranking("three", (0, 1), (1, 1))
    unknown = Ranking(prompt=first.prompt, responses=first.responses, ranks=(1, 2), labeler="ann")
    assert measures.first_wins([first, second, tied, unknown]).value == pytest.approx(1.5 / 3)
    assert measures.first_wins([first, first, tied]).value == pytest.approx(2.5 / 3)
    assert measures.first_wins([unknown]).value is None
    three = ranking("four", (2, 0, 1), (2, 3, 1))  # shown 2, 0, 1 and ranked in that order
    assert measures.first_wins([three]).value == 1.0


def test_weights_are_the_models_and_differences_from_the_majority_are_counted(world: World) -> None:
    store = world.store
    good = [world.user(name) for name in ("ann", "bob", "cas")]
    bad = world.user("dan")
    items = world.items(world.batch(overlap=4), 8, k=2)
    for user in good:
        judge(store, user, {item.id: (1, 2) for item in items})
    judge(store, bad, {item.id: (1, 2) if n % 2 else (2, 1) for n, item in enumerate(items)})
    weights = measures.weigh(collected(world))
    assert (weights.num_pairs, weights.num_same, weights.num_reversed, weights.num_undecided) == (8, 8, 0, 0)
    by_name = weights.model.labeler_weights
    # what was shown first is random, so people who say the same weigh about the same
    assert by_name["ann"] == pytest.approx(by_name["bob"], rel=0.2)
    assert by_name["dan"] < by_name["ann"]
    assert sum(by_name.values()) / 4 == pytest.approx(1.0)
    assert weights.user_ids == {user.name: user.id for user in (*good, bad)}
    assert weights.first_wins.value is not None
    assert 0 < weights.first_wins.value < 1


def test_without_judgements_numbers_are_undefined_and_weights_an_error(world: World) -> None:
    empty = collected(world)
    numbers = measures.measure(empty)
    assert (numbers.num_judgements, numbers.agreement.percent, numbers.first_wins.value) == (0, None, None)
    assert (numbers.items, numbers.over_time) == ((), ())
    with pytest.raises(DataError, match="collect some rankings"):
        measures.weigh(empty)


def test_results_are_kept_until_the_log_grows() -> None:
    memory: Memory[int] = Memory()
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        return len(calls)

    assert [memory.get("a", 5, work), memory.get("a", 5, work)] == [1, 1]
    assert memory.get("b", 5, work) == 2
    assert memory.get("a", 6, work) == 3  # the log has grown
    for key in range(Memory.SIZE):
        memory.get(key, 6, work)
    before = len(calls)
    memory.get("a", 6, work)  # forgotten: there were too many
    assert len(calls) == before + 1


def test_what_took_long_may_be_older(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(time, "thread_time", lambda: clock["cpu"])
    memory: Memory[str] = Memory()

    def slow(answer: str) -> str:
        clock["cpu"] += 2.0
        return answer

    assert memory.get("a", 1, lambda: slow("old")) == "old"
    clock["wall"] = 39.0
    assert memory.get("a", 2, lambda: slow("new")) == "old"
    clock["wall"] = 41.0
    assert memory.get("a", 2, lambda: slow("new")) == "new"
