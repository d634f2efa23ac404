"""A model that introduces itself stays unknown; everything else that it says is left alone."""

from __future__ import annotations

import pytest
from tests.feedback.world import NOW, World

from palate.feedback.store.tables import Batch, Item, Model
from palate.feedback.tasks import batches, blind
from palate.feedback.tasks.blind import BLOT, hide_names
from palate.records import Provenance, Response


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("I am SmolLM2-135M.", f"I am {BLOT}."),
        ("I am smollm2 135m!", f"I am {BLOT}!"),
        ("SMOLLM2 is my name", f"{BLOT} is my name"),
        ("Call smollm2_135m()", f"Call {BLOT}()"),
        ("My name is Ann.", "My name is Ann."),
        ("135m is a length, and so is 2", "135m is a length, and so is 2"),
        ("smollm23 is another one", "smollm23 is another one"),
    ],
)
def test_names_are_blotted_out_however_they_are_written(text: str, seen: str) -> None:
    assert hide_names(text, ["smollm2-135m"]) == seen


@pytest.mark.parametrize("name", ["base", "v2", "2024", "", "-", "reward model"])
def test_names_that_are_hardly_names_hide_nothing_by_themselves(name: str) -> None:
    text = "In 2024 the base v2 was a model of reward - or not."
    assert hide_names(text, [name]) == text


def test_names_with_odd_characters_are_no_patterns() -> None:
    assert hide_names("a.b+c(1) and axb1", ["a.b+c(1)"]) == f"{BLOT}) and axb1"


def test_every_name_of_an_items_models_is_hidden_in_every_response(world: World) -> None:
    batch = world.batch(kind="pair")
    prompt = world.prompt("Who are you?")
    model = Model(name="ppo-round-3", path="runs/3", created_at=NOW)
    world.add(model)
    texts = ("I am ppo-round-3, better than gpt2-xl.", "I am gpt2-xl, or gpt2.")
    with world.store.write() as session:
        rows = [
            batches.add_response(session, prompt.id, Response(text=texts[0]), model_id=model.id),
            batches.add_response(
                session, prompt.id, Response(text=texts[1], provenance=Provenance(model="/models/gpt2-xl"))
            ),
        ]
        ids = [row.id for row in rows]
        item_id = batches.add_item(session, session.get_one(Batch, batch.id), prompt.id, ids).id
    with world.store.read() as session:
        seen = blind.texts_of(session, session.get_one(Item, item_id))
    assert seen == [f"I am {BLOT}, better than {BLOT}.", f"I am {BLOT}, or {BLOT}."]
