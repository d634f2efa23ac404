"""Review: which items come first, what a reviewer sees, and what a decision does to the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select
from tests.feedback.judging import judge, places
from tests.feedback.world import NOW, World

from palate.errors import ConflictError, ForbiddenError, NotFoundError
from palate.feedback.labelers import reviewing
from palate.feedback.labelers.reviewing import Case, Decision
from palate.feedback.store.tables import Event, Item, Judgement, Review, User
from palate.feedback.tasks import batches, judgements
from palate.records import Ranking


@dataclass
class Scene:
    """Ann and Bob judge three items; Rae and Roy review."""

    world: World
    ann: User
    bob: User
    rae: User
    roy: User
    items: list[Item]

    def case(self, reviewer: User, item: Item) -> Case:
        with self.world.store.read() as session:
            return reviewing.case_of(session, reviewer, item.id)

    def decide(self, reviewer: User, item: Item, decision: Decision, **rest: Any) -> Review:
        with self.world.store.write() as session:
            return reviewing.decide(session, reviewer, item.id, decision, **rest)

    def settle(self, reviewer: User, item: Item, ranks: Sequence[int], **rest: Any) -> Review:
        """Ranks are by response."""
        return self.decide(reviewer, item, "settle", ranks=places(self.world.store, reviewer, item, ranks), **rest)

    def training(self) -> list[tuple[str, tuple[int, ...]]]:
        """Whose rankings of the first item would be trained on."""
        with self.world.store.read() as session:
            view = judgements.for_training().where(Judgement.item_id == self.items[0].id)
            return [(ranking.labeler, ranking.ranks) for ranking in judgements.rankings(session, view)]


@pytest.fixture
def scene(world: World) -> Scene:
    batch = world.batch(overlap=2)
    items = world.items(batch, 3)
    ann, bob = world.user("ann"), world.user("bob")
    split, agreed, half = (item.id for item in items)
    judge(world.store, ann, {split: (1, 2, 3), agreed: (1, 2, 3), half: (1, 2, 3)}, comment="it seems clear to me")
    judge(world.store, bob, {split: (3, 2, 1), agreed: (1, 2, 3), half: (1, 1, 2)}, seconds=90)
    return Scene(world, ann, bob, world.user("rae", "reviewer"), world.user("roy", "reviewer"), items)


def test_the_most_disputed_comes_first(scene: Scene) -> None:
    split, _, half = scene.items
    with scene.world.store.read() as session:
        found = reviewing.disputed(session, scene.rae)
        other = reviewing.disputed(session, scene.rae, batch_id="another")
    assert [(d.item.item_id, d.item.num_labelers, d.decision, d.is_own) for d in found] == [
        (split.id, 2, None, False),
        (half.id, 2, None, False),  # the item on which they agree is not there
    ]
    assert [d.item.disagreement for d in found] == pytest.approx([1.0, 1 / 6])
    assert other == []


def test_a_case_is_shown_by_place_with_aliases(scene: Scene) -> None:
    item = scene.items[0]
    case = scene.case(scene.rae, item)
    assert sorted(case.texts) == ["answer 0 to 0", "answer 1 to 0", "answer 2 to 0"]
    number = [int(text.split()[1]) for text in case.texts]  # the response in each place
    by_name = {said.name: said for said in case.said}
    assert by_name["ann"].ranks == tuple((1, 2, 3)[i] for i in number)
    assert by_name["bob"].ranks == tuple((3, 2, 1)[i] for i in number)
    assert (by_name["ann"].comment, by_name["bob"].comment) == ("it seems clear to me", "")
    assert (by_name["ann"].seconds, by_name["bob"].seconds) == (60, 90)
    assert [said.alias for said in case.said] == ["Labeler 1", "Labeler 2"]
    assert (case.disagreement, case.review, case.settled_ranks) == (1.0, None, None)


def test_aliases_do_not_follow_the_order_of_judging(world: World) -> None:
    ann, bob, rae = world.user("ann"), world.user("bob"), world.user("rae", "reviewer")
    items = world.items(world.batch(overlap=2), 12)
    for user in (ann, bob):
        judge(world.store, user, {item.id: (1, 2, 3) for item in items})
    with world.store.read() as session:
        first = {reviewing.case_of(session, rae, item.id).said[0].name for item in items}
        again = [reviewing.case_of(session, rae, items[0].id).said[0].name for _ in range(3)]
    assert first == {"ann", "bob"}
    assert len(set(again)) == 1


def test_keeping_changes_nothing_in_the_data(scene: Scene) -> None:
    before = scene.training()
    scene.decide(scene.rae, scene.items[0], "keep", note="both have a point")
    assert scene.training() == before == [("ann", (1, 2, 3)), ("bob", (3, 2, 1))]
    case = scene.case(scene.roy, scene.items[0])
    assert case.review is not None
    assert (case.review.decision, case.review.note, case.reviewer) == ("keep", "both have a point", "rae")


def test_discarding_takes_the_item_out(scene: Scene) -> None:
    scene.decide(scene.rae, scene.items[0], "discard", note="cut off")
    assert scene.training() == []
    with scene.world.store.read() as session:
        assert reviewing.disputed(session, scene.rae)[0].decision == "discard"


def test_discarding_needs_a_note(scene: Scene) -> None:
    with pytest.raises(ConflictError, match="note"):
        scene.decide(scene.rae, scene.items[0], "discard", note="  ")
    assert scene.world.count(Review) == 0


def test_settling_leaves_the_reviewers_ranking_alone(scene: Scene) -> None:
    review = scene.settle(scene.rae, scene.items[0], (2, 1, 1), seconds=33.0)
    assert scene.training() == [("rae", (2, 1, 1))]
    assert scene.case(scene.rae, scene.items[0]).settled_ranks == places(
        scene.world.store, scene.rae, scene.items[0], (2, 1, 1)
    )
    with scene.world.store.read() as session:
        line = session.scalars(select(Judgement).where(Judgement.id == review.judgement_id)).one()
        record = Ranking.model_validate(line.record)
    assert (line.user_id, line.task_id, line.seconds, line.quality) == (scene.rae.id, None, 33.0, {"review": True})
    assert [response.text for response in record.responses] == [f"answer {i} to 0" for i in range(3)]
    assert record.shown_order is not None


def test_gaps_in_a_settlement_are_closed_and_its_length_is_checked(scene: Scene) -> None:
    scene.settle(scene.rae, scene.items[0], (4, 2, 4))
    assert scene.training() == [("rae", (2, 1, 2))]
    with pytest.raises(ConflictError, match="3 responses"):
        scene.decide(scene.rae, scene.items[2], "settle", ranks=(1, 2))


def test_a_settlement_does_not_count_as_an_opinion(scene: Scene) -> None:
    scene.settle(scene.rae, scene.items[0], (1, 2, 3))
    case = scene.case(scene.roy, scene.items[0])
    assert {said.name for said in case.said} == {"ann", "bob"}
    assert case.disagreement == 1.0


def test_the_latest_decision_holds(scene: Scene) -> None:
    item = scene.items[0]
    first = scene.settle(scene.rae, item, (1, 2, 3), now=NOW)
    second = scene.settle(scene.roy, item, (3, 1, 2), before=first.id, now=NOW)  # in the same moment
    assert scene.training() == [("roy", (3, 1, 2))]
    third = scene.decide(scene.rae, item, "keep", before=second.id, now=NOW)
    assert scene.training() == [("ann", (1, 2, 3)), ("bob", (3, 2, 1))]  # no settlement is left over
    scene.decide(scene.rae, item, "discard", note="no", before=third.id, now=NOW)
    assert scene.training() == []


def test_who_decides_without_having_seen_the_last_decision_is_told(scene: Scene) -> None:
    first = scene.decide(scene.rae, scene.items[0], "keep")
    with pytest.raises(ConflictError, match="meanwhile"):
        scene.decide(scene.roy, scene.items[0], "discard", note="mine")
    scene.decide(scene.roy, scene.items[0], "discard", note="mine", before=first.id)
    assert scene.world.count(Review) == 2


def test_nobody_reviews_what_they_judged_or_have_in_hand_or_wrote(scene: Scene) -> None:
    world = scene.world
    with world.store.write() as session:
        session.get_one(User, scene.ann.id).role = "reviewer"
    for act in (scene.case, lambda who, item: scene.decide(who, item, "keep")):
        with pytest.raises(ForbiddenError, match="judged this item yourself"):
            act(scene.ann, scene.items[0])
    with world.store.read() as session:
        assert [d.is_own for d in reviewing.disputed(session, scene.ann)] == [True, True]
    batch = world.batch("another", created=NOW + 1)
    prompt = world.prompt("who wrote this?")
    rows = [*world.responses(prompt, "a person", author=scene.rae), *world.responses(prompt, "somebody else")]
    with world.store.write() as session:
        item = batches.add_item(session, batch, prompt.id, [row.id for row in rows])
    with pytest.raises(ForbiddenError, match="wrote"):
        scene.case(scene.rae, item)
    assert world.claimed(scene.roy).item_id == item.id
    with pytest.raises(ForbiddenError, match="have this item to judge"):
        scene.case(scene.roy, item)


def test_what_is_not_reviewed_is_not_there(scene: Scene) -> None:
    world = scene.world
    test = world.item(world.batch("test", is_screening=True, threshold=0.5), gold=(1, 2, 3))
    arena = world.item(world.batch("arena", kind="arena"), 7, k=2)
    for item_id in (test.id, arena.id, "nothing"):
        with pytest.raises(NotFoundError), world.store.read() as session:
            reviewing.case_of(session, scene.rae, item_id)


def test_decisions_are_on_record(scene: Scene) -> None:
    scene.decide(scene.rae, scene.items[0], "keep")
    with scene.world.store.read() as session:
        event = session.scalars(select(Event).where(Event.action == "reviewed")).one()
    assert (event.user_id, event.detail) == (scene.rae.id, {"item": scene.items[0].id, "decision": "keep"})
