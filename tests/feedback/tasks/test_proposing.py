"""What to label next; and whose order a reward model gives."""

from __future__ import annotations

import math

import pytest
from tests.feedback.world import World

from palate.feedback.store.tables import Batch, Item
from palate.feedback.tasks import proposing
from palate.feedback.tasks.proposing import accuracy, key_of
from palate.objectives.acquisition import uncertainty, uncertainty_one_by_one
from palate.records import Prompt, Ranking, Response


def test_the_least_certain_item_comes_first_and_judged_ones_stay(world: World) -> None:
    batch = world.batch()
    items = world.items(batch, 4)
    ann, bob = world.user("ann"), world.user("bob")
    judged = world.claimed(ann)
    world.submit(judged)  # item 0
    held = world.claimed(bob)  # and item 1 is in hand
    spread = {2: 4.0, 3: 0.1}
    scores = {
        key_of(Prompt.from_text(f"batch: question {number}").id, f"answer {k} to {number}"): [k * gap]
        for number, gap in spread.items()
        for k in range(3)
    }
    with world.store.write() as session:
        assert proposing.prioritise(session, session.get_one(Batch, batch.id), scores) == 2
    with world.store.read() as session:
        priorities = [session.get_one(Item, item.id).priority for item in items]
    assert priorities[0] == priorities[1] == 0
    assert priorities[2] == pytest.approx(uncertainty([[0.0, 4.0, 8.0]]))
    assert priorities[3] == pytest.approx(uncertainty([[0.0, 0.1, 0.2]]))
    assert world.claimed(ann).item_id == items[3].id
    assert held.item_id == items[1].id


def test_of_items_that_ask_the_same_the_second_waits(world: World) -> None:
    """Two members contradict each other about items 0 and 1 in the same way, and agree about item 2."""
    batch = world.batch()
    items = world.items(batch, 3, k=2)
    raw = {0: [[4.0, 0.0], [0.0, 4.0]], 1: [[4.0, 0.0], [0.0, 4.0]], 2: [[3.5, 0.0], [3.5, 0.0]]}
    scores = {
        key_of(Prompt.from_text(f"batch: question {number}").id, f"answer {k} to {number}"): [
            member[k] for member in raw[number]
        ]
        for number in raw
        for k in range(2)
    }
    with world.store.write() as session:
        assert proposing.prioritise(session, session.get_one(Batch, batch.id), scores) == 3
    with world.store.read() as session:
        found = [session.get_one(Item, item.id).priority for item in items]
    assert found == pytest.approx(uncertainty_one_by_one([raw[number] for number in raw]))
    alone = uncertainty(raw[0])
    assert found == pytest.approx([alone, alone / (1 + alone), 0.0])
    assert world.claimed(world.user("ann")).item_id == items[0].id


def test_a_batch_goes_back_to_the_order_in_which_it_was_made(world: World) -> None:
    batch = world.batch()
    items = world.items(batch, 3)
    ann = world.user("ann")
    with world.store.write() as session:
        for item, priority in zip(items, (0.1, 0.5, 0.9), strict=True):
            session.get_one(Item, item.id).priority = priority
    judged = world.claimed(ann)
    world.submit(judged)
    assert judged.item_id == items[2].id
    with world.store.write() as session:
        assert proposing.as_made(session, session.get_one(Batch, batch.id)) == 2
        assert proposing.as_made(session, session.get_one(Batch, batch.id)) == 0
    with world.store.read() as session:
        assert [session.get_one(Item, item.id).priority for item in items] == [0, 0, 0.9]  # what is judged stays
    assert world.claimed(ann).item_id == items[0].id


def test_an_item_without_all_its_scores_keeps_its_place(world: World) -> None:
    batch = world.batch()
    world.items(batch, 1)
    with world.store.write() as session:
        partly = {key_of(Prompt.from_text("batch: question 0").id, "answer 0 to 0"): [1.0]}
        assert proposing.prioritise(session, session.get_one(Batch, batch.id), partly) == 0


def ranking(question: int, labeler: str, *ranks: int) -> Ranking:
    responses = tuple(Response(text=f"{question}.{place}") for place in range(len(ranks)))
    return Ranking(prompt=Prompt.from_text(f"question {question}"), responses=responses, ranks=ranks, labeler=labeler)


def scores_of(*questions: int) -> dict[tuple[str, str], list[float]]:
    """The model prefers early responses, everywhere."""
    return {
        key_of(Prompt.from_text(f"question {q}").id, f"{q}.{place}"): [-float(place)]
        for q in questions
        for place in range(3)
    }


def test_accuracy_within_and_across_labelers() -> None:
    said = [
        ranking(0, "ann", 1, 2, 3),  # 3 of 3 as the model
        ranking(1, "ann", 3, 2, 1),  # 0 of 3
        ranking(0, "bob", 1, 1, 2),  # 2 of 2; the tie asks nothing
        ranking(0, "cyd", 2, 1, 3),  # 2 of 3, held out
        ranking(1, "dee", 1, 1, 1),  # nothing ordered, held out
    ]
    found = accuracy(said, scores_of(0, 1), held_out=frozenset({"cyd", "dee"}))
    assert found.within.value == pytest.approx(5 / 8)
    assert found.across.value == pytest.approx(2 / 3)
    by_name = {labeler.name: labeler for labeler in found.labelers}
    assert [by_name[name].num_pairs for name in ("ann", "bob", "cyd", "dee")] == [6, 2, 3, 0]
    assert by_name["ann"].accuracy.value == pytest.approx(0.5)
    assert by_name["dee"].accuracy.value is None
    assert [by_name[name].held_out for name in ("ann", "cyd")] == [False, True]


def test_equal_scores_are_half_right_and_unknown_ones_are_left_out() -> None:
    prompt = Prompt.from_text("question 0")
    scores = {key_of(prompt.id, "0.0"): [1.0], key_of(prompt.id, "0.1"): [1.0]}
    found = accuracy([ranking(0, "ann", 1, 2, 3)], scores)
    assert found.labelers[0].num_pairs == 1
    assert found.within.value == 0.5


def test_intervals_are_bootstrapped_by_prompt() -> None:
    said = [ranking(q, "ann", *((1, 2, 3) if q % 2 else (3, 2, 1))) for q in range(40)]
    found = accuracy(said, scores_of(*range(40))).within
    assert found.value == 0.5
    assert found.low is not None
    assert found.high is not None
    # whole prompts are right or wrong: as wide as 40 coins, not as 120
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 40), rel=0.15)
