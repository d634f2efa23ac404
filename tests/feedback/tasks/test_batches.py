"""Material: what is recognised, what does not fit, who wrote what."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from tests.feedback.world import World

from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, ItemAuthor, PromptRow, ResponseRow
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.queue import UNLIMITED_PLACES
from palate.records import Candidates, Message, Prompt, Provenance, Response


def test_prompts_are_recognised(world: World) -> None:
    first = Prompt(messages=(Message(role="system", content="be brief"), Message(role="user", content="why?")))
    tagged = first.model_copy(update={"tags": {"topic": "other"}})
    with world.store.write() as session:
        assert batches.add_prompts(session, [first, Prompt.from_text("how?"), first], source="mine") == 2
        assert batches.add_prompts(session, [tagged, Prompt.from_text("when?")]) == 1
    with world.store.read() as session:
        row = session.get_one(PromptRow, first.id)
        assert row.source == "mine"
        assert Prompt.model_validate(row.record) == first


def test_responses_come_back_as_they_were(world: World) -> None:
    prompt = world.prompt("why?")
    provenance = Provenance(model="tiny", checkpoint="abc", temperature=0.7, seed=3, logprob=-12.5, ended=False)
    responses = [Response(text="so", provenance=provenance), Response(text="an odd one: \u2028 é")]
    with world.store.write() as session:
        rows = [batches.add_response(session, prompt.id, response) for response in responses]
        batch = batches.create_batch(session, BatchPlan(name="b"), by=None)
        item = batches.add_item(session, batch, prompt.id, [rows[1].id, rows[0].id])
    with world.store.read() as session:
        item = session.get_one(Item, item.id)
        assert judgements.responses_of(session, item) == responses[::-1]
        assert judgements.prompt_of(session, item) == prompt


def test_text_with_nul_is_kept_alike_in_every_database(world: World) -> None:
    prompt = world.prompt("why?")
    with world.store.write() as session:
        row = batches.add_response(session, prompt.id, Response(text="a\0b"))
        batch = batches.create_batch(session, BatchPlan(name="b"), by=None)
        item = batches.add_item(session, batch, prompt.id, [row.id])
    with world.store.read() as session:
        item = session.get_one(Item, item.id)
        assert judgements.responses_of(session, item) == [Response(text="a\ufffdb")]


def test_candidates_become_items(world: World) -> None:
    batch = world.batch(overlap=2)
    given = [
        Candidates(prompt=Prompt.from_text(f"question {i}"), responses=tuple(Response(text=t) for t in "abcd"[: i + 1]))
        for i in range(3)
    ]
    with world.store.write() as session:
        assert batches.add_candidates(session, batch, given, source="sampled") == 3
    with world.store.read() as session:
        items = session.scalars(select(Item).order_by(Item.position)).all()
        assert [(item.position, item.open_places) for item in items] == [(0, 2), (1, 2), (2, 2)]
        for item, candidates in zip(items, given, strict=True):
            assert judgements.prompt_of(session, item) == candidates.prompt
            assert tuple(judgements.responses_of(session, item)) == candidates.responses


def test_authors_are_kept_with_the_item(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    batch, prompt = world.batch(), world.prompt("why?")
    rows = [
        *world.responses(prompt, "one", "two", author=ann),
        *world.responses(prompt, "three", author=bob),
        *world.responses(prompt, "four"),
    ]
    with world.store.write() as session:
        item = batches.add_item(session, batch, prompt.id, [row.id for row in rows])
        authors = session.scalars(select(ItemAuthor.user_id).where(ItemAuthor.item_id == item.id)).all()
    assert sorted(authors) == sorted([ann.id, bob.id])


PLANS: list[dict[str, Any]] = [
    {"overlap": 0},
    {"is_screening": True},
    {"is_screening": True, "threshold": 0.5, "kind": "demonstration"},
    {"is_screening": True, "threshold": 0.5, "kind": "arena"},
]


@pytest.mark.parametrize("plan", PLANS)
def test_batches_that_cannot_be(plan: dict[str, Any], world: World) -> None:
    with pytest.raises(ConflictError):
        world.batch(**plan)


@pytest.mark.parametrize(
    ("kind", "count", "gold", "message"),
    [
        ("demonstration", 1, None, "no responses"),
        ("pair", 3, None, "two responses, not 3"),
        ("arena", 1, None, "two responses, not 1"),
        ("ranking", 0, None, "between 1 and 9"),
        ("ranking", 10, None, "between 1 and 9"),
        ("ranking", 2, [1, 2, 3], "2 numbers"),
        ("ranking", 2, [2, 3], "the best of them 1"),
        ("demonstration", 0, [], "known ranks"),
        ("screening", 2, None, "prefer one"),
        ("screening", 2, [1, 1], "prefer one"),
    ],
)
def test_items_that_do_not_fit(kind: str, count: int, gold: list[int] | None, message: str, world: World) -> None:
    screening = kind == "screening"
    plan: dict[str, Any] = {"is_screening": True, "threshold": 0.75} if screening else {"kind": kind}
    batch = world.batch(**plan)
    with pytest.raises(ConflictError, match=message):
        world.item(batch, k=count, gold=gold)
    assert world.count(Item) == 0


def test_an_item_has_its_own_prompts_responses(world: World) -> None:
    batch, prompt, other = world.batch(), world.prompt("why?"), world.prompt("how?")
    mine, foreign = world.responses(prompt, "so")[0], world.responses(other, "thus")[0]
    for ids in ([mine.id, foreign.id], [mine.id, mine.id], [mine.id, "none such"]):
        with pytest.raises(ConflictError, match="different responses, all to its own prompt"), world.store.write() as s:
            batches.add_item(s, batch, prompt.id, ids)
    assert world.count(ResponseRow) == 2


def test_items_of_every_kind(world: World) -> None:
    places = {}
    for kind, count in (("demonstration", 0), ("pair", 2), ("arena", 2), ("ranking", 9)):
        item = world.item(world.batch(kind, kind=kind, overlap=3), k=count)
        places[kind] = (len(item.response_ids), item.open_places)
    test = world.item(world.batch("test", is_screening=True, threshold=0.75), gold=[2, 1, 2])
    assert places == {"demonstration": (0, 3), "pair": (2, 3), "arena": (2, 3), "ranking": (9, 3)}
    assert (test.open_places, test.gold) == (UNLIMITED_PLACES, [2, 1, 2])


def test_a_new_batch_asks_for_the_ranking_alone(world: World) -> None:
    with world.store.write() as session:
        new = batches.create_batch(session, BatchPlan(name="new"), by=None)
        more = {"ratings": True, "flags": ["violent", "off_task", "of another version"]}
        asking = batches.create_batch(session, BatchPlan(name="asking", settings=more), by=None)
        pair = batches.create_batch(session, BatchPlan(name="pair", kind="pair"), by=None)
        ids = [batch.id for batch in (new, asking, pair)]
    with world.store.read() as session:
        asked = [batches.Asked.of(session.get_one(Batch, id)) for id in ids]
    assert asked == [
        batches.Asked(False, ()),
        batches.Asked(True, ("off_task", "violent")),
        batches.Asked(False, ()),
    ]


def test_a_batch_from_before_goes_on_asking_for_everything(world: World) -> None:
    """Its settings say nothing, as they did where nothing was chosen."""
    with world.store.write() as session:
        old = batches.create_batch(session, BatchPlan(name="old"), by=None)
        old.settings = {}
    with world.store.read() as session:
        found = session.get_one(Batch, old.id)
        assert batches.Asked.of(found) == batches.Asked(True, tuple(judgements.FLAGS))
