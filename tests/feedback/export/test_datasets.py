"""What the log gives to training: all that may teach and no more, the same file for the same data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.feedback.world import World

from palate.errors import ConflictError
from palate.feedback.export import datasets
from palate.feedback.export.datasets import Collected
from palate.feedback.store.tables import User
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.judgements import Judgement
from palate.records import Prompt, Ranking, Response


def collected(world: World, kind: datasets.Kind) -> Collected:
    with world.store.read() as session:
        return datasets.collect(session, kind)


def prompts(count: int, start: int = 0) -> list[Prompt]:
    return [Prompt.from_text(f"prompt {number}") for number in range(start, start + count)]


def test_prompts_for_evaluation_stay_that_whatever_is_added(world: World) -> None:
    with world.store.write() as session:
        batches.add_prompts(session, prompts(60))
    first = {kind: {p.id for p in collected(world, kind).records} for kind in ("prompts", "evaluation prompts")}  # type: ignore[attr-defined]
    assert first["prompts"].isdisjoint(first["evaluation prompts"])
    assert len(first["prompts"] | first["evaluation prompts"]) == 60
    assert 0.1 * 60 < len(first["evaluation prompts"]) < 0.35 * 60
    with world.store.write() as session:
        batches.add_prompts(session, prompts(60, start=60))
    for kind, before in first.items():
        assert before <= {p.id for p in collected(world, kind).records}  # type: ignore[arg-type, attr-defined]


def test_few_prompts_are_not_divided_and_the_dataset_says_so(world: World) -> None:
    with world.store.write() as session:
        batches.add_prompts(session, prompts(5))
    for kind in ("prompts", "evaluation prompts"):
        found = collected(world, kind)  # type: ignore[arg-type]
        assert len(found.records) == 5
        assert "what is measured was trained on" in found.notes[0]


def test_every_judgement_is_used_or_counted_with_its_reason(world: World) -> None:
    plain = world.batch("plain", overlap=9)
    world.items(plain, 2)
    ann, held = world.user("ann"), world.user("held", is_held_out=True)
    world.submit(world.claimed(ann))
    replaced = world.submit(world.claimed(ann))
    world.submit(world.claimed(held))
    arena = world.batch("arena", kind="arena", overlap=9)
    world.items(arena, 1, k=2)
    world.submit(world.claimed(ann), ranks=(1, 2))
    world.withdraw(ann, replaced)
    found = collected(world, "rankings")
    assert len(found.records) == 1
    assert found.people == 1
    assert found.left_out == {"by a held-out labeler": 1, "a blind comparison in the arena": 1}
    with world.store.read() as session:
        tested = datasets.rankings_to_test_on(session)
        assert sorted(ranking.labeler for ranking in tested) == ["ann", "held"]
        assert datasets.held_out_people(session) == {"held"}


def test_weights_are_of_those_who_count_differently(world: World) -> None:
    world.user("ann")
    world.user("bob", weight=0.25)
    with world.store.read() as session:
        assert datasets.labeler_weights(session) == {"bob": 0.25}


def test_an_edited_answer_is_a_ranking_and_a_demonstration(world: World) -> None:
    ann = world.user("ann")
    edit = Ranking(
        prompt=Prompt.from_text("q"),
        responses=(Response(text="bad"), Response(text="good")),
        ranks=(2, 1),
        labeler="ann",
    )
    with world.store.write() as session:
        record = edit.model_dump(mode="json", exclude_defaults=True)
        judgements.append(session, "edit", record, session.get_one(User, ann.id))
    assert [each.response.text for each in collected(world, "demonstrations").records] == ["good"]  # type: ignore[attr-defined]
    assert len(collected(world, "rankings").records) == 1
    assert world.count(Judgement) == 1


def test_the_same_data_is_the_same_file_with_its_card(tmp_path: Path) -> None:
    given = Collected(kind="prompts", records=prompts(3), left_out={"known": 2}, notes=("careful",))
    first = datasets.write(tmp_path, given)
    assert datasets.write(tmp_path, given) == first
    assert [path.name for path in sorted((tmp_path / "data").iterdir())] == [
        Path(first.path).with_suffix(".json").name,
        Path(first.path).name,
    ]
    assert first.sha256 == hashlib.sha256((tmp_path / first.path).read_bytes()).hexdigest()
    assert datasets.read_card(tmp_path, first.path) == first
    assert datasets.read_card(tmp_path, "data/none.jsonl") is None
    other = datasets.write(tmp_path, Collected(kind="prompts", records=prompts(2), left_out={}))
    assert other.path != first.path


def test_nothing_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="there are no demonstrations yet"):
        datasets.write(tmp_path, Collected(kind="demonstrations", records=[], left_out={}))


def test_distinct_responses_of_several_rankings_are_scored_once() -> None:
    def ranking(question: int, *texts: str) -> Ranking:
        made = tuple(Response(text=text) for text in texts)
        return Ranking(prompt=Prompt.from_text(f"q{question}"), responses=made, ranks=tuple(range(1, len(texts) + 1)))

    found = datasets.distinct_responses([ranking(1, "a", "b"), ranking(2, "a"), ranking(1, "b", "c")])
    assert [[response.text for response in each.responses] for each in found] == [["a", "b", "c"], ["a"]]
