"""Accounts, invitations, sign-in, sessions and API tokens.

Every secret a person holds (an invitation, a session, a token) is random; the database keeps its hash alone. Passwords
are hashed with Argon2id (19 MiB, two passes). A session ends when it is idle or old, when its owner signs out, and when
their role changes. Sign-in answers the same to an unknown name and a wrong password, takes as long, and slows down
by account and by address.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from palate.errors import ConflictError, ForbiddenError, NotFoundError, TooManyError
from palate.feedback.store.tables import Attempt, Event, Invitation, Login, Token, User, fold_name

IDLE_SECONDS = 12 * 3600.0
ABSOLUTE_SECONDS = 7 * 86400.0
INVITATION_SECONDS = 7 * 86400.0
FIRST_LINK_SECONDS = 86400.0
ATTEMPT_SECONDS = 900.0
ATTEMPTS_PER_ACCOUNT = 10
ATTEMPTS_PER_ADDRESS = 50
MIN_PASSWORD = 10
MAX_PASSWORD = 200
SEEN_EVERY = 60.0

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
_NOBODY = _HASHER.hash(secrets.token_hex(16))  # verified when the name is unknown, so that both cases take as long
_WRONG = "name or password is wrong"
_TAKEN = "that name is taken: choose another"
_USED = "this invitation has been used or has expired: ask for a new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A person and the secrets of their new session: ``token`` for the cookie, ``csrf`` for forms."""

    user: User
    token: str
    csrf: str


def hash_secret(secret: str) -> str:
    """What the database keeps of a random secret; they are too long to guess, so one round is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def record(session: Session, user_id: str | None, action: str, *, now: float | None = None, **detail: object) -> None:
    """A line of the audit trail."""
    session.add(Event(at=time.time() if now is None else now, user_id=user_id, action=action, detail=detail))


def create_user(session: Session, name: str, password: str, role: str, *, now: float | None = None) -> User:
    """A new account.

    Raises:
        ConflictError: the name is taken, or name or password will not do.
    """
    name = " ".join(name.split())
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise ConflictError("a name has 1 to 60 printable characters")
    check_password(password)
    if _named(session, name) is not None:
        raise ConflictError(_TAKEN)
    user = User(
        name=name, password_hash=_HASHER.hash(password), role=role, created_at=time.time() if now is None else now
    )
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:  # somebody else took it at the same moment
        raise ConflictError(_TAKEN) from None
    return user


def check_password(password: str) -> None:
    """Length is all that is asked for.

    Raises:
        ConflictError: it is too short or too long.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise ConflictError(f"a password has at least {MIN_PASSWORD} characters (and at most {MAX_PASSWORD})")


def sign_in(session: Session, name: str, password: str, address: str, *, now: float | None = None) -> SignedIn | None:
    """A new session, or None if name or password is wrong (the attempt is then counted).

    Raises:
        TooManyError: too many wrong attempts for this account or from this address.
    """
    now = time.time() if now is None else now
    keys = {f"name:{fold_name(name)[:60]}": ATTEMPTS_PER_ACCOUNT, f"address:{address}": ATTEMPTS_PER_ADDRESS}
    user = _named(session, name)
    session.execute(delete(Attempt).where(Attempt.at < now - ATTEMPT_SECONDS))
    for key, limit in keys.items():
        if (session.scalar(select(func.count()).where(Attempt.key == key)) or 0) >= limit:
            raise TooManyError("too many attempts: wait a quarter of an hour", retry_after=ATTEMPT_SECONDS)
    if not _verify(user.password_hash if user else _NOBODY, password) or user is None:
        session.add_all(Attempt(key=key, at=now) for key in keys)
        return None
    return open_session(session, user, now=now)


def open_session(session: Session, user: User, *, now: float | None = None) -> SignedIn:
    """A session of a person who has proved who they are; always with a new id."""
    now = time.time() if now is None else now
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    session.add(
        Login(token_hash=hash_secret(token), user_id=user.id, role=user.role, csrf=csrf, created_at=now, seen_at=now)
    )
    record(session, user.id, "signed in", now=now)
    return SignedIn(user=user, token=token, csrf=csrf)


def session_of(session: Session, token: str, *, now: float | None = None) -> tuple[User, Login] | None:
    """Who holds this session token, if it still holds."""
    now = time.time() if now is None else now
    login = session.get(Login, hash_secret(token))
    if login is None or now > login.seen_at + IDLE_SECONDS or now > login.created_at + ABSOLUTE_SECONDS:
        return None
    user = session.get_one(User, login.user_id)
    return (user, login) if user.role == login.role else None


def is_worth_noting(key: Login | Token, *, now: float | None = None) -> bool:
    """Whether a session or token was last noted as used so long ago that it should be again."""
    return key.seen_at is None or (time.time() if now is None else now) > key.seen_at + SEEN_EVERY


def note_seen(session: Session, token_hash: str, *, now: float | None = None) -> None:
    """The session was used now."""
    seen = time.time() if now is None else now
    session.execute(update(Login).where(Login.token_hash == token_hash).values(seen_at=seen))


def sign_out(session: Session, token: str) -> None:
    """End one session."""
    session.execute(delete(Login).where(Login.token_hash == hash_secret(token)))


def end_sessions(session: Session, user: User) -> None:
    """End all sessions of a person."""
    session.execute(delete(Login).where(Login.user_id == user.id))


def change_role(session: Session, user: User, role: str, *, by: User) -> None:
    """Another role, effective at the next sign-in; all sessions end.

    Raises:
        ForbiddenError: the last admin would be gone.
    """
    if role != "admin" and _admins(session) == [user.id]:
        raise ForbiddenError("this is the only admin: make somebody else one first")
    record(session, by.id, "changed role", user=user.name, old=user.role, new=role)
    user.role = role
    end_sessions(session, user)


def change_password(session: Session, user: User, old: str, new: str) -> None:
    """Another password; all sessions end.

    Raises:
        ForbiddenError: the old one is wrong.
        ConflictError: the new one will not do.
    """
    if not _verify(user.password_hash, old):
        raise ForbiddenError("the old password is wrong")
    check_password(new)
    user.password_hash = _HASHER.hash(new)
    end_sessions(session, user)
    record(session, user.id, "changed password")


def invite(
    session: Session,
    role: str,
    *,
    by: User | None,
    note: str = "",
    seconds: float = INVITATION_SECONDS,
    now: float | None = None,
) -> str:
    """A single-use invitation; returns its secret, which is shown once and kept nowhere."""
    now = time.time() if now is None else now
    secret = secrets.token_urlsafe(24)
    by_id = by.id if by else None
    session.add(
        Invitation(
            token_hash=hash_secret(secret),
            role=role,
            note=note,
            created_by=by_id,
            created_at=now,
            expires_at=now + seconds,
        )
    )
    record(session, by_id, "invited", now=now, role=role)
    return secret


def invitation_of(session: Session, secret: str, *, now: float | None = None) -> Invitation:
    """An invitation that can still be used.

    Raises:
        NotFoundError: unknown, used, withdrawn or expired.
    """
    now = time.time() if now is None else now
    found = session.scalars(select(Invitation).where(Invitation.token_hash == hash_secret(secret))).first()
    if found is None or found.used_at is not None or found.revoked_at is not None or now > found.expires_at:
        raise NotFoundError(_USED)
    return found


def accept(session: Session, secret: str, name: str, password: str, *, now: float | None = None) -> SignedIn:
    """Make an account from an invitation and sign in.

    Raises:
        NotFoundError: the invitation can no longer be used.
        ConflictError: name or password will not do.
    """
    now = time.time() if now is None else now
    invitation = invitation_of(session, secret, now=now)
    user = create_user(session, name, password, invitation.role, now=now)
    used = session.execute(
        update(Invitation)
        .where(Invitation.id == invitation.id, Invitation.used_at.is_(None), Invitation.revoked_at.is_(None))
        .values(used_by=user.id, used_at=now)
        .returning(Invitation.id)
    )
    if used.scalar() is None:
        raise NotFoundError(_USED)
    return open_session(session, user, now=now)


def first_link(session: Session, *, now: float | None = None) -> str | None:
    """The secret of an invitation for the first admin; None once there is one. Earlier first links end."""
    now = time.time() if now is None else now
    if session.scalar(select(func.count()).where(User.role == "admin")):
        return None
    session.execute(
        update(Invitation)
        .where(Invitation.role == "admin", Invitation.used_at.is_(None), Invitation.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return invite(session, "admin", by=None, note="first admin", seconds=FIRST_LINK_SECONDS, now=now)


def issue_token(session: Session, user: User, name: str, *, now: float | None = None) -> tuple[Token, str]:
    """A token for the API, and its secret, which is shown once."""
    secret = f"palate_{secrets.token_urlsafe(32)}"
    now = time.time() if now is None else now
    token = Token(token_hash=hash_secret(secret), user_id=user.id, name=name[:60], created_at=now)
    session.add(token)
    record(session, user.id, "issued a token", name=token.name)
    session.flush()
    return token, secret


def token_of(session: Session, secret: str) -> Token | None:
    """The token with this secret, unless it was revoked."""
    token = session.scalars(select(Token).where(Token.token_hash == hash_secret(secret))).first()
    return None if token is None or token.revoked_at is not None else token


def holder_of(session: Session, secret: str) -> User | None:
    """Whose token this is, unless it was revoked."""
    token = token_of(session, secret)
    return None if token is None else session.get_one(User, token.user_id)


def note_used(session: Session, token_id: str, *, now: float | None = None) -> None:
    """The token was used now."""
    session.execute(update(Token).where(Token.id == token_id).values(seen_at=time.time() if now is None else now))


def wrong_sign_in() -> ForbiddenError:
    """The one message for an unknown name and a wrong password."""
    return ForbiddenError(_WRONG)


def _named(session: Session, name: str) -> User | None:
    """The account of this name; what others do with it waits, so that attempts are counted one by one."""
    return session.scalars(select(User).where(User.name_key == fold_name(name)).with_for_update(key_share=True)).first()


def _admins(session: Session) -> Sequence[str]:
    """Ids of all admins; nobody else changes one of them until this transaction ends."""
    return session.scalars(
        select(User.id).where(User.role == "admin").order_by(User.id).with_for_update(key_share=True)
    ).all()


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password[:MAX_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False
