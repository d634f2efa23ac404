"""People who say what a test wants them to say, in terms of responses rather than places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palate.feedback.store.database import Store
from palate.feedback.store.tables import Item, Judgement, User
from palate.feedback.tasks import judgements, queue
from palate.feedback.tasks.judgements import RankingForm


def judge(
    store: Store, user: User, wanted: Mapping[str, Sequence[int]], *, now: float | None = None, **form: Any
) -> dict[str, Judgement]:
    """Somebody claims tasks until they have given each item (by id) its ranks [K] by response."""
    given = {}
    while len(given) < len(wanted):
        with store.write() as session:
            task = queue.claim(session, user, now=now)
            assert task is not None, "no task left"
            ranks = judgements.by_place(task.shown_order, wanted[task.item_id])
            filled = RankingForm(ranks=ranks, **{"seconds": 60, "confirmed": True, **form})
            line = judgements.submit_ranking(session, session.get_one(User, user.id), task, filled, now=now).judgement
            assert line is not None
            given[task.item_id] = line
    return given


def places(store: Store, user: User, item: Item, ranks: Sequence[int]) -> tuple[int, ...]:
    """[K] ranks by response -> by place on this person's screen."""
    return judgements.by_place(queue.shown_order(item, user.id), ranks)
