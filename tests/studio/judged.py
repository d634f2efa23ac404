"""A workspace in which two labelers have judged two items: alike the first, the opposite the second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Item, Model, User
from palate.feedback.tasks import batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import RankingForm
from palate.records import Prompt, Provenance, Response

MODEL = "secretive-7b"


@dataclass
class Judged:
    """What was made; ranks are by response."""

    store: Store
    batch: Batch
    items: list[Item] = field(default_factory=list)

    def add_item(self, number: int, k: int = 3) -> Item:
        prompt = Prompt.from_text(f"question {number}")
        with self.store.write() as session:
            batches.add_prompts(session, [prompt])
            rows = [
                batches.add_response(
                    session,
                    prompt.id,
                    Response(text=f"answer {i} of {MODEL}", provenance=Provenance(model=MODEL)),
                )
                for i in range(k)
            ]
            item = batches.add_item(session, session.merge(self.batch), prompt.id, [row.id for row in rows])
        self.items.append(item)
        return item

    def judge(self, user: User, *wanted: Sequence[int], **form: object) -> None:
        """One ranking for each of the next tasks, by response; tasks come in the order of the items."""
        for ranks in wanted:
            with self.store.write() as session:
                task = queue.claim(session, user, batch_id=self.batch.id)
                assert task is not None
                given = judgements.by_place(task.shown_order, ranks)
                filled = RankingForm.model_validate({"ranks": given, "seconds": 60, "confirmed": True, **form})
                judgements.submit_ranking(session, session.get_one(User, user.id), task, filled)

    def by_place(self, user: User, item: Item, ranks: Sequence[int]) -> list[int]:
        return list(judgements.by_place(queue.shown_order(item, user.id), ranks))


def make(store: Store, *, overlap: int = 2) -> Judged:
    """An open batch of rankings without items."""
    with store.write() as session:
        session.add(Model(name=MODEL, path=MODEL, created_at=0.0))
        plan = BatchPlan(name="kitchen questions", overlap=overlap)
        batch = batches.create_batch(session, plan, by=None)
    return Judged(store, batch)


def two_items(store: Store, ann: User, bob: User) -> Judged:
    """They agree on all three pairs of the first item and on none of the second: 50%."""
    judged = make(store)
    judged.add_item(0)
    judged.add_item(1)
    judged.judge(ann, (1, 2, 3), (1, 2, 3), comment="as I see it")
    judged.judge(bob, (1, 2, 3), (3, 2, 1))
    return judged
