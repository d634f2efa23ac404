"""Whether the best of n pleases more than one of the n at random: thumbs of both kinds of answers, side by side.

The lot falls on answers and not on people, and nobody is told on which, so the difference of the two rates is what
choosing does. Counted is the first thumb that an answer got: a later one was given by somebody who could read how it
was taken. An answer whose thumb was taken back counts not at all. A random answer that happens to be the best one stays
a random one: the rates are of the two ways of taking an answer.

Intervals draw conversations again and not answers, for those of one conversation resemble each other; they speak of the
people and the questions that there were. A thumb counts here whether or not its author lets it train a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.store.tables import ChatMessage, Judgement
from palate.feedback.tasks import judgements
from palate.intervals import Estimate, bootstrap, ratio_estimate
from palate.records import Ranking

Counts = NDArray[np.float64]

UP = 7
"""The rating that a thumb up is."""

SEED = 0
"""Of the bootstrap: the same log gives the same interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lots:
    """Thumbs up of answers that were chosen and of answers that were taken at random.

    Attributes:
        chosen, random: rates of thumbs up.
        difference: of the first over the second.
        num_chosen, num_random: answers with a thumb.
        conversations: in which they stand.
    """

    chosen: Estimate
    random: Estimate
    difference: Estimate
    num_chosen: int
    num_random: int
    conversations: int


def compared(session: Session) -> Lots:
    """From all answers that could have fallen to the lot and have a thumb."""
    by_conversation: dict[str, Counts] = {}
    for conversation_id, record in _first_thumbs(session):
        said = Ranking.model_validate(record)
        drawn, ratings = said.responses[0].provenance, said.ratings
        if drawn is None or drawn.selection is None or not drawn.selection.random_share or ratings is None:
            continue
        counts = by_conversation.setdefault(conversation_id, np.zeros((2, 2)))
        counts[int(drawn.selection.at_random)] += (ratings[0] == UP, 1)
    return of_counts(list(by_conversation.values()))


def of_counts(counts: Sequence[Counts]) -> Lots:
    """From [2, 2] of every conversation: rows chosen and random, columns thumbs up and thumbs."""
    table = np.array(counts, dtype=np.float64).reshape(-1, 2, 2)

    def difference(weights: Counts) -> float | None:
        up, total, random_up, random_total = weights @ table.reshape(-1, 4)
        return float(up / total - random_up / random_total) if total and random_total else None

    chosen, random = (ratio_estimate(table[:, kind, 0], table[:, kind, 1], seed=SEED, share=True) for kind in range(2))
    return Lots(
        chosen=chosen,
        random=random,
        difference=bootstrap(difference, len(table), seed=SEED, least=-1, most=1),
        num_chosen=int(table[:, 0, 1].sum()),
        num_random=int(table[:, 1, 1].sum()),
        conversations=len(table),
    )


def _first_thumbs(session: Session) -> list[tuple[str, dict[str, object]]]:
    """Conversation and record of the first thumb of every answer that has one now."""
    now = judgements.current().where(Judgement.kind == "thumb").with_only_columns(Judgement.message_id).order_by(None)
    lines = session.execute(
        select(ChatMessage.conversation_id, Judgement.message_id, Judgement.record)
        .join(ChatMessage, ChatMessage.id == Judgement.message_id)
        .where(Judgement.kind == "thumb", Judgement.message_id.in_(now))
        .order_by(Judgement.number)
    )
    first: dict[str, tuple[str, dict[str, object]]] = {}
    for conversation_id, message_id, record in lines:
        first.setdefault(message_id, (conversation_id, record))
    return list(first.values())
