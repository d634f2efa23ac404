"""A small workspace for tests of the store: people without passwords, prompts and responses by number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import func, select

from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Item, Judgement, ResponseRow, Table, Task, User
from palate.feedback.tasks import batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import RankingForm
from palate.feedback.tasks.queue import UNLIMITED_PLACES
from palate.records import Prompt, Response

NOW = 1_000_000.0
LEASE = 100.0


class World:
    """Makes rows, and does what people do, each in a transaction of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, *rows: Table) -> None:
        with self.store.write() as session:
            session.add_all(rows)

    def user(self, name: str, role: str = "labeler", **columns: Any) -> User:
        user = User(name=name, role=role, password_hash="", created_at=NOW, **columns)
        self.add(user)
        return user

    def prompt(self, text: str) -> Prompt:
        prompt = Prompt.from_text(text)
        with self.store.write() as session:
            batches.add_prompts(session, [prompt], now=NOW)
        return prompt

    def responses(self, prompt: Prompt, *texts: str, author: User | None = None) -> list[ResponseRow]:
        author_id = author.id if author else None
        with self.store.write() as session:
            return [
                batches.add_response(session, prompt.id, Response(text=text), author_id=author_id, now=NOW)
                for text in texts
            ]

    def batch(self, name: str = "batch", *, created: float = NOW, **plan: Any) -> Batch:
        plan = {"lease_seconds": LEASE, **plan}
        with self.store.write() as session:
            return batches.create_batch(session, BatchPlan(name=name, **plan), by=None, now=created)

    def item(self, batch: Batch, number: int = 0, *, k: int = 3, **columns: Any) -> Item:
        prompt = self.prompt(f"{batch.name}: question {number}")
        rows = self.responses(prompt, *(f"answer {i} to {number}" for i in range(k)))
        with self.store.write() as session:
            return batches.add_item(session, batch, prompt.id, [row.id for row in rows], **columns)

    def items(self, batch: Batch, count: int, *, k: int = 3) -> list[Item]:
        return [self.item(batch, number, k=k) for number in range(count)]

    def claim(self, user: User, now: float = NOW, batch: Batch | None = None) -> Task | None:
        with self.store.write() as session:
            return queue.claim(session, user, batch_id=batch.id if batch else None, now=now)

    def claimed(self, user: User, now: float = NOW) -> Task:
        task = self.claim(user, now)
        assert task is not None
        return task

    def draft(self, task: Task, draft: dict[str, Any], now: float = NOW) -> None:
        with self.store.write() as session:
            queue.save_draft(session, session.get_one(Task, task.id), draft, now=now)

    def skip(self, task: Task, now: float = NOW) -> None:
        with self.store.write() as session:
            queue.skip(session, session.get_one(Task, task.id), "no idea", now=now)

    def expire(self, now: float) -> None:
        with self.store.write() as session:
            queue.release_expired(session, now)

    def reopen(self, task: Task, now: float = NOW) -> None:
        with self.store.write() as session:
            queue.reopen(session, session.get_one(Task, task.id), now=now)

    def submit(self, task: Task, ranks: Sequence[int] = (2, 1, 3), now: float = NOW, **form: Any) -> Judgement:
        """Ranks are by place on the screen."""
        handed = self.hand(task, RankingForm(ranks=tuple(ranks), **{"seconds": 60, **form}), now)
        assert handed.judgement is not None, handed.nudges
        return handed.judgement

    def hand(self, task: Task, form: RankingForm, now: float = NOW) -> judgements.Handed:
        with self.store.write() as session:
            task = session.get_one(Task, task.id)
            return judgements.submit_ranking(session, session.get_one(User, task.user_id), task, form, now=now)

    def withdraw(self, user: User, judgement: Judgement, now: float = NOW) -> Judgement:
        with self.store.write() as session:
            return judgements.withdraw(session, user, session.get_one(Judgement, judgement.number), now=now)

    def task(self, task: Task) -> Task:
        """As it is now."""
        with self.store.read() as session:
            return session.get_one(Task, task.id)

    def open_places(self, item: Item) -> int:
        with self.store.read() as session:
            return session.get_one(Item, item.id).open_places

    def count(self, table: type[Table]) -> int:
        with self.store.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def check_places(self) -> None:
        """Of every item: places that are open and places that are taken make up the overlap."""
        with self.store.read() as session:
            for item, batch in session.execute(select(Item, Batch).join(Batch, Batch.id == Item.batch_id)):
                tasks = session.scalars(select(Task).where(Task.item_id == item.id)).all()
                taken = [t for t in tasks if t.state == "leased" or (t.state == "submitted" and not t.is_surplus)]
                places = UNLIMITED_PLACES if batch.is_screening else batch.overlap
                assert item.open_places + len(taken) == places, (item.open_places, [t.state for t in tasks])
                assert len({task.user_id for task in tasks}) == len(tasks)


def together(work: Sequence[Callable[[], object]]) -> list[object]:
    """Run each in a thread of its own, at the same moment; any exception fails the test."""
    barrier = threading.Barrier(len(work))
    results: list[object] = [None] * len(work)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = work[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    return results
