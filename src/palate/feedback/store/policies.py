"""Models that can answer: those that runs have made, and the one that a workspace begins with."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import NotFoundError
from palate.feedback.store.tables import Model


def base_policy(session: Session, path: str, *, now: float | None = None) -> Model:
    """The model a workspace begins with; it gets its line in the table when it is first asked for."""
    found = session.scalars(select(Model).where(Model.path == path, Model.kind == "policy")).first()
    if found is None:
        found = Model(name=path, path=path, kind="policy", created_at=time.time() if now is None else now)
        session.add(found)
        session.flush()
    return found


def policies(session: Session) -> Sequence[Model]:
    """All that can answer, the newest first."""
    return session.scalars(
        select(Model).where(Model.kind == "policy").order_by(Model.created_at.desc(), Model.name)
    ).all()


def policy_of(session: Session, model_id: str) -> Model:
    """A model that can answer.

    Raises:
        NotFoundError: there is none with that id.
    """
    found = session.get(Model, model_id)
    if found is None or found.kind != "policy":
        raise NotFoundError("no such model")
    return found
