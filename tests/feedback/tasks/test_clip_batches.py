"""Comparisons of clips in the store, on each database: which batches they are, and what goes back to their run."""

from __future__ import annotations

from tests.feedback.world import World

from palate.feedback.export import datasets
from palate.feedback.tasks import clip_batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import RankingForm
from palate.records import Candidates
from palate.stages.agent.clip_answers import comparison_of


def comparison(number: int) -> Candidates:
    names = (f"clips/{number:06d}-a-{'a' * 12}.svg", f"clips/{number:06d}-b-{'b' * 12}.svg")
    return comparison_of("Pendulum-v1", number, names)


def test_clips_are_told_from_texts_by_either_database(world: World) -> None:
    ann = world.user("Ann")
    texts = world.batch("texts", kind="pair")
    with world.store.write() as session:
        clips = clip_batches.create(session, BatchPlan(name="clips"), "runs/x", map(comparison, range(3)), by=None)
    for _ in range(2):
        with world.store.write() as session:
            task = queue.claim(session, ann, batch_id=clips.id)
            assert task is not None
            judgements.submit_ranking(session, ann, task, RankingForm(ranks=(1, 2), seconds=60))
    with world.store.write() as session:
        last = queue.claim(session, ann, batch_id=clips.id)
        assert last is not None
        queue.skip(session, last, "unclear")
    with world.store.read() as session:
        assert [clip_batches.kind_of(batch) for batch in (texts, clips)] == ["pair", "clips"]
        assert [batch.id for batch in clip_batches.of_run(session, "runs/x")] == [clips.id]
        assert clip_batches.of_run(session, "runs/y") == []
        found = clip_batches.answers(session, "runs/x")
        assert (len(found.rankings), len(found.skipped), found.left_out, found.open) == (2, 1, 0, 0)
        counts = [len(session.scalars(judgements.for_training(of_clips=which)).all()) for which in (False, True, None)]
        assert counts == [0, 2, 2]
        assert datasets.collect(session, "rankings").left_out == {
            "a comparison of clips, which teaches the agent that asked": 2
        }
        asked = {prompt.text for prompt in datasets.collect(session, "prompts").records}  # type: ignore[union-attr]
        assert not [text for text in asked if "clips" in text]
