"""Accounts: passwords, invitations, sessions, limits, and what two people do at the same moment."""

from __future__ import annotations

from collections.abc import Callable

import argon2
import pytest
from argon2 import PasswordHasher, Type
from sqlalchemy import func, select
from tests.feedback.world import NOW, World, together

from palate.errors import ConflictError, ForbiddenError, NotFoundError, RequestError, TooManyError
from palate.feedback.store import people
from palate.feedback.store.database import Store
from palate.feedback.store.people import SignedIn
from palate.feedback.store.tables import Attempt, Event, Invitation, Login, Table, Token, User

PASSWORD = "correct horse battery"
HOME = "198.51.100.1"


class Counted:
    """A hasher that counts, and is cheap unless it is told otherwise."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self.hasher = hasher
        self.verified: list[argon2.Parameters] = []

    def hash(self, password: str) -> str:
        return self.hasher.hash(password)

    def verify(self, password_hash: str, password: str) -> bool:
        self.verified.append(argon2.extract_parameters(password_hash))
        return self.hasher.verify(password_hash, password)


@pytest.fixture(autouse=True)
def hasher(monkeypatch: pytest.MonkeyPatch) -> Counted:
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)
    counted = Counted(cheap)
    monkeypatch.setattr(people, "_HASHER", counted)
    monkeypatch.setattr(people, "_NOBODY", cheap.hash("nobody"))
    return counted


def account(store: Store, name: str = "ann", role: str = "labeler") -> User:
    with store.write() as session:
        return people.create_user(session, name, PASSWORD, role, now=NOW)


def sign_in(
    store: Store, name: str = "ann", password: str = PASSWORD, *, address: str = HOME, now: float = NOW
) -> SignedIn | None:
    with store.write() as session:
        return people.sign_in(session, name, password, address, now=now)


def signed_in(store: Store, name: str = "ann", *, now: float = NOW) -> SignedIn:
    result = sign_in(store, name, now=now)
    assert result is not None
    return result


def holds(store: Store, token: str, now: float) -> str | None:
    """The name of whoever holds a session's token."""
    with store.read() as session:
        found = people.session_of(session, token, now=now)
        return None if found is None else found[0].name


def invite(store: Store, role: str = "labeler", *, now: float = NOW) -> str:
    with store.write() as session:
        return people.invite(session, role, by=None, now=now)


def accept(store: Store, secret: str, name: str = "ann", *, now: float = NOW) -> SignedIn:
    with store.write() as session:
        return people.accept(session, secret, name, PASSWORD, now=now)


def outcome(act: Callable[[], object]) -> type | None:
    """Which of our errors it raises."""
    try:
        act()
    except RequestError as error:
        return type(error)
    return None


# passwords and names


def test_passwords_are_hashed_with_argon2id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real hasher
    user = account(store)
    used = argon2.extract_parameters(user.password_hash)
    assert (used.type, used.memory_cost, used.time_cost, used.parallelism) == (Type.ID, 19 * 1024, 2, 1)
    assert argon2.extract_parameters(people._NOBODY) == used  # so an unknown name takes as long
    assert sign_in(store) is not None
    assert sign_in(store, password="wrong horse battery") is None


def test_an_unknown_name_is_like_a_wrong_password(store: Store, hasher: Counted) -> None:
    account(store)
    for name in ("ann", "nobody"):
        hasher.verified.clear()
        assert sign_in(store, name, "not the password") is None
        assert len(hasher.verified) == 1
    assert str(people.wrong_sign_in()) == "name or password is wrong"


def test_names_that_will_not_do(world: World) -> None:
    for name in ("", "  ", "x" * 61, "a\x07b", "a\0b", "a\N{RIGHT-TO-LEFT OVERRIDE}b"):
        with pytest.raises(ConflictError, match="1 to 60 printable"):
            account(world.store, name)
    assert world.count(User) == 0


@pytest.mark.parametrize("length", [people.MIN_PASSWORD - 1, people.MAX_PASSWORD + 1])
def test_passwords_that_will_not_do(length: int) -> None:
    with pytest.raises(ConflictError, match="at least 10 characters"):
        people.check_password("x" * length)
    people.check_password("x" * people.MIN_PASSWORD)
    people.check_password("x" * people.MAX_PASSWORD)


def test_one_name_for_one_person(world: World) -> None:
    account(world.store, "Änne  Lee")
    for name in ("änne lee", "ÄNNE LEE", " Änne Lee "):
        with pytest.raises(ConflictError, match="taken"):
            account(world.store, name)
        assert signed_in(world.store, name).user.name == "Änne Lee"
    assert world.count(User) == 1


def test_one_name_taken_by_many_at_once(world: World) -> None:
    secrets = [invite(world.store) for _ in range(6)]
    outcomes = together([lambda s=secret: outcome(lambda: accept(world.store, s)) for secret in secrets])
    assert sorted(map(str, outcomes)) == sorted(map(str, [None] + [ConflictError] * 5))
    assert world.count(User) == 1
    with world.store.read() as session:  # whoever was too late can use theirs with another name
        assert session.scalar(select(func.count()).where(Invitation.used_at.is_(None))) == 5


# limits


def test_wrong_passwords_are_counted_by_account(store: Store) -> None:
    account(store)
    for i in range(people.ATTEMPTS_PER_ACCOUNT):
        spelling = ["ann", " ANN ", "Ann"][i % 3]  # one account, however it is written
        assert sign_in(store, spelling, "wrong", address=f"203.0.113.{i}", now=NOW + i) is None
    with pytest.raises(TooManyError, match="wait a quarter of an hour") as caught:
        sign_in(store, address="203.0.113.99", now=NOW + 20)
    assert caught.value.retry_after == people.ATTEMPT_SECONDS
    assert sign_in(store, "bob", "wrong", address="203.0.113.99", now=NOW + 20) is None
    assert signed_in(store, now=NOW + people.ATTEMPT_SECONDS + 1).user.name == "ann"


def test_wrong_passwords_are_counted_by_address(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "ATTEMPTS_PER_ADDRESS", 5)
    account(store)
    for i in range(5):
        assert sign_in(store, f"guess {i}", "wrong") is None
    with pytest.raises(TooManyError):
        sign_in(store)
    assert sign_in(store, address="203.0.113.9") is not None
    assert sign_in(store, now=NOW + people.ATTEMPT_SECONDS + 1) is not None
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(Attempt)) == 0  # the old ones were cleared away


def test_a_limit_holds_while_a_password_is_checked(store: Store, hasher: Counted) -> None:
    """What was refused for being too much is not even compared."""
    account(store)
    for _ in range(people.ATTEMPTS_PER_ACCOUNT):
        sign_in(store, password="wrong")
    hasher.verified.clear()
    assert outcome(lambda: sign_in(store)) is TooManyError
    assert hasher.verified == []


def test_guesses_at_the_same_moment_are_counted_too(
    store: Store, hasher: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "ATTEMPTS_PER_ACCOUNT", 3)
    account(store)
    hasher.verified.clear()
    outcomes = together(
        [lambda i=i: outcome(lambda: sign_in(store, password="wrong", address=f"203.0.113.{i}")) for i in range(8)]
    )
    assert outcomes.count(TooManyError) == 5
    assert len(hasher.verified) == 3


# sessions


def test_a_session_ends_when_it_is_idle(store: Store) -> None:
    account(store)
    token = signed_in(store).token
    idle = people.IDLE_SECONDS
    assert holds(store, token, NOW + idle) == "ann"
    assert holds(store, token, NOW + idle + 1) is None
    with store.write() as session:
        people.note_seen(session, people.hash_secret(token), now=NOW + idle)
    assert holds(store, token, NOW + 2 * idle) == "ann"


def test_a_session_ends_when_it_is_old(store: Store) -> None:
    account(store)
    token = signed_in(store).token
    end = NOW + people.ABSOLUTE_SECONDS
    with store.write() as session:
        people.note_seen(session, people.hash_secret(token), now=end)
    assert holds(store, token, end) == "ann"
    assert holds(store, token, end + 1) is None


def test_seen_is_noted_once_a_minute() -> None:
    login = Login(seen_at=NOW)
    assert not people.is_worth_noting(login, now=NOW + people.SEEN_EVERY)
    assert people.is_worth_noting(login, now=NOW + people.SEEN_EVERY + 1)


def test_every_sign_in_is_a_new_session(store: Store) -> None:
    account(store)
    one, other = signed_in(store), signed_in(store)
    assert len({one.token, other.token, one.csrf, other.csrf}) == 4
    with store.write() as session:
        people.sign_out(session, one.token)
    assert holds(store, one.token, NOW) is None
    assert holds(store, other.token, NOW) == "ann"
    assert holds(store, "made up", NOW) is None


def test_another_role_ends_all_sessions(store: Store) -> None:
    chief, ann = account(store, "chief", "admin"), account(store)
    tokens = [signed_in(store).token, signed_in(store).token]
    with store.write() as session:
        people.change_role(session, session.get_one(User, ann.id), "reviewer", by=chief)
    assert [holds(store, token, NOW) for token in tokens] == [None, None]
    assert signed_in(store).user.role == "reviewer"


def test_a_role_changed_behind_its_back_ends_a_session(store: Store) -> None:
    ann = account(store)
    token = signed_in(store).token
    with store.write() as session:
        session.get_one(User, ann.id).role = "admin"
    assert holds(store, token, NOW) is None


def test_another_password_ends_all_sessions(store: Store) -> None:
    ann = account(store)
    token = signed_in(store).token

    def change(old: str, new: str) -> None:
        with store.write() as session:
            people.change_password(session, session.get_one(User, ann.id), old, new)

    assert outcome(lambda: change("not mine at all", "a new password")) is ForbiddenError
    assert outcome(lambda: change(PASSWORD, "short")) is ConflictError
    assert holds(store, token, NOW) == "ann"
    change(PASSWORD, "a new password")
    assert holds(store, token, NOW) is None
    assert sign_in(store) is None
    assert sign_in(store, password="a new password") is not None


# the last admin


def test_the_last_admin_stays(store: Store) -> None:
    chief = account(store, "chief", "admin")

    def demote(user: User) -> None:
        with store.write() as session:
            people.change_role(session, session.get_one(User, user.id), "labeler", by=chief)

    with pytest.raises(ForbiddenError, match="only admin"):
        demote(chief)
    second = account(store, "second", "admin")
    demote(chief)
    assert outcome(lambda: demote(second)) is ForbiddenError


def test_two_admins_cannot_remove_each_other(store: Store) -> None:
    chiefs = [account(store, f"chief {i}", "admin") for i in range(2)]

    def demote(user: User, by: User) -> None:
        with store.write() as session:
            people.change_role(session, session.get_one(User, user.id), "labeler", by=by)

    for _ in range(3):
        outcomes = together(
            [lambda u=u, b=b: outcome(lambda: demote(u, b)) for u, b in (chiefs, chiefs[::-1])],
        )
        assert sorted(map(str, outcomes)) == sorted(map(str, [None, ForbiddenError]))
        with store.write() as session:
            for chief in chiefs:
                session.get_one(User, chief.id).role = "admin"


# invitations


def test_an_invitation_makes_an_account_of_its_role_once(world: World) -> None:
    store = world.store
    secret = invite(store, "reviewer")
    with store.read() as session:
        assert people.invitation_of(session, secret, now=NOW).role == "reviewer"
    joined = accept(store, secret)
    assert (joined.user.role, holds(store, joined.token, NOW)) == ("reviewer", "ann")
    with pytest.raises(NotFoundError, match="ask for a new one"):
        accept(store, secret, "bob")
    assert world.count(User) == 1


def test_an_invitation_accepted_by_many_at_once(world: World) -> None:
    secret = invite(world.store)
    outcomes = together([lambda i=i: outcome(lambda: accept(world.store, secret, f"somebody {i}")) for i in range(6)])
    assert sorted(map(str, outcomes)) == sorted(map(str, [None] + [NotFoundError] * 5))
    assert world.count(User) == world.count(Login) == 1


def test_a_name_that_will_not_do_uses_up_nothing(store: Store) -> None:
    secret = invite(store)
    assert outcome(lambda: accept(store, secret, "")) is ConflictError
    assert accept(store, secret).user.name == "ann"


def test_invitations_expire_and_are_revoked_alike(store: Store) -> None:
    late, revoked = invite(store), invite(store)
    end = NOW + people.INVITATION_SECONDS
    with store.write() as session:
        assert people.invitation_of(session, late, now=end).role == "labeler"
        people.invitation_of(session, revoked, now=NOW).revoked_at = NOW
    said = set()
    for secret, now in ((late, end + 1), (revoked, NOW), ("made up", NOW)):
        with pytest.raises(NotFoundError) as caught:
            accept(store, secret, now=now)
        said.add(str(caught.value))
    assert len(said) == 1


def test_the_first_link_works_until_there_is_an_admin(store: Store) -> None:
    def first_link(now: float) -> str | None:
        with store.write() as session:
            return people.first_link(session, now=now)

    account(store, "not an admin", "researcher")
    early, link = first_link(NOW), first_link(NOW + 1)
    assert early is not None
    assert link is not None
    assert outcome(lambda: accept(store, early, "chief", now=NOW + 2)) is NotFoundError
    assert outcome(lambda: accept(store, link, "chief", now=NOW + 2 + people.FIRST_LINK_SECONDS)) is NotFoundError
    assert accept(store, link, "chief", now=NOW + 2).user.role == "admin"
    assert first_link(NOW + 3) is None


# tokens and secrets


def test_tokens(store: Store) -> None:
    ann = account(store)
    with store.write() as session:
        token, secret = people.issue_token(session, ann, "my script", now=NOW)
    with store.read() as session:
        holder = people.holder_of(session, secret)
        assert holder is not None
        assert holder.id == ann.id
        assert people.holder_of(session, secret + "x") is None
    with store.write() as session:
        session.get_one(Token, token.id).revoked_at = NOW
    with store.read() as session:
        assert people.holder_of(session, secret) is None


def test_the_database_knows_no_secret(store: Store) -> None:
    secret, unused = invite(store), invite(store)
    joined = accept(store, secret)
    again = signed_in(store)
    with store.write() as session:
        key = people.issue_token(session, joined.user, "key", now=NOW)[1]
    with store.read() as session:
        everything = [row for table in Table.metadata.sorted_tables for row in session.execute(select(table))]
        assert session.scalars(select(Event.action).order_by(Event.id)).all() == [
            "invited",
            "invited",
            "signed in",
            "signed in",
            "issued a token",
        ]
    kept = repr(everything)
    assert joined.user.password_hash in kept
    for text in (PASSWORD, secret, unused, joined.token, again.token, key):
        assert text not in kept
