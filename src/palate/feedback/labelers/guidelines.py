"""The instructions that labelers follow, in numbered versions: a new text is a new version, and old ones stay.

Every judgement names the version that applied (`judgements.append`), so a change of mind is visible in the data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.people import record
from palate.feedback.store.tables import Guideline, User

FIRST_TEXT = """\
Say which responses you would rather have got.

1. **Helpful**: it does what was asked, in the form that was asked for.
2. **Honest**: what it says is true, and it says so where it does not know.
3. **Harmless**: it does nobody any harm.

- Longer is not better.
- Two responses that are equally good share a rank.
- Skip what you cannot judge, and say why.
"""
"""What a workspace without guidelines starts writing from."""


def latest(session: Session) -> Guideline | None:
    """The version that applies now."""
    return session.scalars(select(Guideline).order_by(Guideline.version.desc()).limit(1)).first()


def history(session: Session) -> Sequence[Guideline]:
    """All versions, the newest first."""
    return session.scalars(select(Guideline).order_by(Guideline.version.desc())).all()


def version_of(session: Session, version: int) -> Guideline:
    """One version.

    Raises:
        NotFoundError: there is none of that number.
    """
    found = session.get(Guideline, version)
    if found is None:
        raise NotFoundError(f"there is no version {version} of the guidelines")
    return found


def write(session: Session, user: User, text: str, *, after: int, now: float | None = None) -> Guideline:
    """A new version, which applies from now on.

    Args:
        session: a write transaction.
        user: its author.
        text: Markdown.
        after: the version that the author had before them (0 for none), so that nobody's change is lost.
        now: the time.

    Raises:
        ConflictError: it is blank, says what the latest one says, or somebody else wrote one meanwhile.
    """
    before = latest(session)
    if after != (before.version if before else 0):
        raise ConflictError(
            "somebody saved another version meanwhile: open it in another tab and bring the two together"
        )
    if not text.strip() or (before is not None and text.strip() == before.text):
        raise ConflictError("nothing has changed: write something first")
    made = Guideline(
        version=after + 1, text=text.strip(), author_id=user.id, created_at=time.time() if now is None else now
    )
    session.add(made)
    try:
        session.flush()
    except IntegrityError:
        raise ConflictError("somebody saved another version in this moment: reload the page") from None
    record(session, user.id, "wrote guidelines", now=now, version=made.version)
    return made
