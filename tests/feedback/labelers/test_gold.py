"""Screening tests: where known answers come from, what people and items score, correcting, taking it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from tests.feedback.judging import judge, places
from tests.feedback.world import NOW, World

from palate.errors import ConflictError, DataError, NotFoundError
from palate.feedback.labelers import admission, gold, reviewing
from palate.feedback.store.tables import Batch, Item, Task, User
from palate.feedback.tasks import batches, queue
from palate.records import Prompt, Ranking, Response


def test_the_order_people_agree_on() -> None:
    assert gold.agreed_ranks([(1, 2, 3), (1, 2, 3), (3, 2, 1)]) == (1, 2, 3)
    assert gold.agreed_ranks([(1, 2, 3), (2, 1, 3)]) == (1, 1, 2)  # the first two are even
    assert gold.agreed_ranks([(1, 2), (2, 1)]) is None
    assert gold.agreed_ranks([(1, 1)]) is None
    assert gold.agreed_ranks([]) is None


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(1, 4))
def test_those_who_all_say_the_same_agree_on_it(ranks: list[int], people: int) -> None:
    agreed = gold.agreed_ranks([ranks] * people)
    expected = tuple(sorted(set(ranks)).index(rank) + 1 for rank in ranks)
    assert agreed == (expected if len(set(ranks)) > 1 else None)


def judged(world: World) -> list[Item]:
    """Three items: agreed on, disputed, judged by one person alone."""
    ann, bob = world.user("ann", screening="passed"), world.user("bob", screening="passed")
    items = world.items(world.batch(overlap=2, settings={"ratings": False}), 3)
    agreed, split, alone = (item.id for item in items)
    judge(world.store, ann, {agreed: (1, 2, 3), split: (1, 2, 3), alone: (1, 2, 3)})
    judge(world.store, bob, {agreed: (1, 2, 3), split: (3, 2, 1)})
    return items


def test_candidates_are_the_surest_first(world: World) -> None:
    agreed, split, alone = judged(world)
    rae = world.user("rae", "reviewer")
    with world.store.read() as session:
        found = gold.candidates(session)
        assert [(c.item.id, c.ranks, c.agreement, c.is_settled) for c in found] == [(agreed.id, (1, 2, 3), 1.0, False)]
        everything = {c.item.id: (c.ranks, c.agreement) for c in gold.candidates(session, everything=True)}
        assert everything == {agreed.id: ((1, 2, 3), 1.0), split.id: (None, 0.0), alone.id: (None, None)}
        assert gold.candidates(session, batch_id="another") == []
    with world.store.write() as session:
        ranks = places(world.store, rae, split, (2, 1, 2))
        reviewing.decide(session, rae, split.id, "settle", ranks=ranks)
    with world.store.read() as session:
        found = gold.candidates(session)
    assert [(c.item.id, c.ranks, c.is_settled) for c in found] == [
        (split.id, (2, 1, 2), True),
        (agreed.id, (1, 2, 3), False),
    ]


def make(world: World, known: dict[str, tuple[int, ...]], threshold: float = 0.75) -> Batch:
    with world.store.write() as session:
        root = session.scalars(select(User).where(User.role == "admin")).first()
        return gold.make_test(session, "entrance", threshold, known, by=root or _root(session))


def _root(session) -> User:  # type: ignore[no-untyped-def]
    root = User(name="root", role="admin", password_hash="", created_at=NOW)
    session.add(root)
    session.flush()
    return root


def items_of(world: World, batch: Batch) -> list[Item]:
    with world.store.read() as session:
        return list(session.scalars(select(Item).where(Item.batch_id == batch.id).order_by(Item.position)))


def test_a_test_is_made_of_copies(world: World) -> None:
    agreed, split, _ = judged(world)
    test = make(world, {agreed.id: (1, 2, 3), split.id: (4, 1, 4)})
    assert (test.kind, test.is_screening, test.threshold) == ("ranking", True, 0.75)
    assert test.settings == {"ratings": False, "flags": []}
    first, second = items_of(world, test)
    assert (first.prompt_id, first.response_ids, first.gold) == (agreed.prompt_id, agreed.response_ids, [1, 2, 3])
    assert second.gold == [2, 1, 2]
    assert first.id != agreed.id


def test_a_test_of_pairs_is_a_pair_test(world: World) -> None:
    pairs = world.items(world.batch(kind="pair"), 2, k=2)
    assert make(world, {item.id: (1, 2) for item in pairs}).kind == "pair"


def test_tests_that_cannot_be_made(world: World) -> None:
    agreed, *_ = judged(world)
    with pytest.raises(ConflictError, match="at least one"):
        make(world, {})
    with pytest.raises(NotFoundError):
        make(world, {"nothing": (1, 2, 3)})
    for ranks in ((1, 2), (1, 1, 1)):
        with pytest.raises(ConflictError, match="known ranks"):
            make(world, {agreed.id: ranks})
    with world.store.read() as session:
        assert gold.tests(session) == []


def ranking(prompt: str, ranks: tuple[int, ...]) -> Ranking:
    texts = tuple(Response(text=f"{prompt} {i}") for i in range(len(ranks)))
    return Ranking(prompt=Prompt.from_text(prompt), responses=texts, ranks=ranks)


def test_a_test_out_of_a_file(world: World) -> None:
    root = world.user("root", "admin")
    given = [
        ranking("one", (2, 1)),
        ranking("one", (1, 2)),  # the same responses again
        ranking("two", (1, 2, 2)),
        ranking("thumb", (1,)),
        ranking("tied", (1, 1)),
        ranking("many", tuple(range(1, 11))),
    ]
    with world.store.write() as session:
        test, left_out = gold.import_test(session, "from a file", 0.6, given, by=root)
    assert sum(left_out.values()) == 4
    assert left_out == {
        "another ranking of the same responses (the first counts)": 1,
        "a single response": 1,
        "all responses tied": 1,
        "more than nine responses": 1,
    }
    assert [item.gold for item in items_of(world, test)] == [[2, 1], [1, 2, 2]]
    with pytest.raises(DataError, match="no ranking in it"), world.store.write() as session:
        gold.import_test(session, "nothing", 0.6, [ranking("thumb", (1,))], by=root)
    with pytest.raises(DataError, match="at most 200"), world.store.write() as session:
        gold.import_test(session, "much", 0.6, (ranking(str(n), (1, 2)) for n in range(201)), by=root)


def taken(world: World) -> tuple[Batch, list[Item], User, User]:
    """Eve is right on the first item and wrong on the second; Fay is half right and wrong."""
    first, second = world.items(world.batch(), 2)
    test = make(world, {first.id: (1, 2, 3), second.id: (1, 2, 3)})
    items = items_of(world, test)
    eve, fay = world.user("eve"), world.user("fay")
    for user, (one, two) in {eve: ((1, 2, 3), (3, 2, 1)), fay: ((1, 1, 1), (3, 2, 1))}.items():
        judge(world.store, user, {items[0].id: one, items[1].id: two})
        with world.store.write() as session:
            admission.settle(session, user, test)
    return test, items, eve, fay


def screening_of(world: World, *users: User) -> list[str | None]:
    with world.store.read() as session:
        return [session.get_one(User, user.id).screening for user in users]


def test_results_by_person_and_by_item(world: World) -> None:
    test, items, eve, fay = taken(world)
    with world.store.read() as session:
        people = gold.person_results(session, test)
        by_item = gold.item_results(session, test)
    assert [(p.user.name, p.num_answered, p.result and p.result.agreement) for p in people] == [
        ("eve", 2, 0.5),
        ("fay", 2, 0.25),
    ]
    assert [(r.num_answers, r.agreement, r.num_below, r.is_suspect) for r in by_item] == [
        (2, 0.75, 0, False),
        (2, 0.0, 2, True),  # nobody gets it right
    ]
    assert [r.usual for r in by_item] == [(1, 2, 3), (3, 2, 1)]
    assert screening_of(world, eve, fay) == ["failed", "failed"]
    assert len(items) == 2


def test_a_wrong_answer_is_corrected_and_decided_again(world: World) -> None:
    test, items, eve, fay = taken(world)
    with world.store.write() as session:
        root = session.scalars(select(User).where(User.role == "admin")).one()
        gold.correct(session, items[1].id, (3, 2, 1), by=root)
        assert gold.item_results(session, test)[1].agreement == 1.0
    assert screening_of(world, eve, fay) == ["failed", "failed"]  # correcting alone decides nothing
    with world.store.write() as session:
        assert gold.decide_again(session, session.get_one(Batch, test.id), by=root) == 2
    assert screening_of(world, eve, fay) == ["passed", "passed"]  # 1.0 and (0.5 * 3 + 3) / 6 = 0.75
    with world.store.write() as session:
        batch = session.get_one(Batch, test.id)
        gold.change_test(session, batch, threshold=0.8, by=root)
        assert gold.decide_again(session, batch, by=root) == 1
    assert screening_of(world, eve, fay) == ["passed", "failed"]
    with world.store.write() as session:
        for ranks in ((1, 1, 1), (1, 2)):
            with pytest.raises(ConflictError):
                gold.correct(session, items[1].id, ranks, by=root)
        with pytest.raises(NotFoundError):
            gold.correct(session, "nothing", (1, 2), by=root)


def test_taking_it_again(world: World) -> None:
    test, items, eve, fay = taken(world)
    with world.store.write() as session:
        root = session.scalars(select(User).where(User.role == "admin")).one()
        gold.retake(session, eve, by=root)
    assert screening_of(world, eve, fay) == [None, "failed"]
    world.check_places()
    with world.store.read() as session:
        assert [p.user.name for p in gold.person_results(session, test)] == ["fay"]
        assert queue.must_be_screened(session, session.get_one(User, eve.id))
    judge(world.store, eve, {item.id: (1, 2, 3) for item in items})
    with world.store.write() as session:
        result = admission.settle(session, eve, test)
    assert result is not None
    assert (result.agreement, screening_of(world, eve)) == (1.0, ["passed"])
    with world.store.read() as session:
        tasks = session.scalars(select(Task).where(Task.user_id == eve.id, Task.state == "submitted")).all()
    assert len(tasks) == 2
    world.check_places()


def test_an_ended_test_is_asked_of_nobody(world: World) -> None:
    item = world.item(world.batch())
    test = make(world, {item.id: (1, 2, 3)})
    new = world.user("new")
    with world.store.write() as session:
        root = session.scalars(select(User).where(User.role == "admin")).one()
        batch = session.get_one(Batch, test.id)
        assert queue.must_be_screened(session, new)
        gold.change_test(session, batch, is_open=False, by=root)
        assert not queue.must_be_screened(session, new)
        gold.change_test(session, batch, is_open=True, by=root)
        assert queue.must_be_screened(session, new)
        assert gold.test_of(session, test.id) is batch
        with pytest.raises(NotFoundError):
            gold.test_of(session, item.batch_id)


def test_whoever_wrote_a_response_is_not_asked_about_it(world: World) -> None:
    ann, eve = world.user("ann"), world.user("eve")
    batch, prompt = world.batch(), world.prompt("who wrote this?")
    rows = [*world.responses(prompt, "a person", author=ann), *world.responses(prompt, "somebody else")]
    with world.store.write() as session:
        item = batches.add_item(session, batch, prompt.id, [row.id for row in rows])
    test = make(world, {item.id: (1, 2)})
    assert world.claim(ann, batch=test) is None
    assert world.claim(eve, batch=test) is not None
