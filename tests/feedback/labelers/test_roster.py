"""The people who label: what is counted of them, and what changes when an admin changes them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from tests.feedback.judging import judge
from tests.feedback.world import NOW, World

from palate.errors import ConflictError, ForbiddenError, NotFoundError
from palate.feedback.labelers import roster
from palate.feedback.labelers.roster import Changes
from palate.feedback.store import people
from palate.feedback.store.tables import Event, Invitation, Login, User
from palate.feedback.tasks import judgements


def events(world: World) -> list[tuple[str, dict[str, object]]]:
    with world.store.read() as session:
        return [(event.action, event.detail) for event in session.scalars(select(Event).order_by(Event.id))]


def change(world: World, user: User, by: User, **changes: object) -> None:
    with world.store.write() as session:
        roster.change(session, session.get_one(User, user.id), Changes.model_validate(changes), by=by)


def reread(world: World, user: User) -> User:
    with world.store.read() as session:
        return session.get_one(User, user.id)


def test_what_everyone_has_done(world: World) -> None:
    world.user("root", "admin")
    ann, bob = world.user("Ann"), world.user("bob")
    items = world.items(world.batch(overlap=2), 3)
    first, second, third = (item.id for item in items)
    for seconds, item in ((30, first), (90, second), (40, third)):
        judge(world.store, ann, {item: (1, 2, 3)}, seconds=seconds, now=NOW + seconds)
    judge(world.store, bob, {first: (1, 2, 3), second: (3, 2, 1)}, now=NOW + 500)
    found = {each.user.name: each for each in roster.labelers(world.store)}
    assert list(found) == ["Ann", "bob", "root"]
    ann_now = found["Ann"]
    assert (ann_now.num_done, ann_now.seconds, ann_now.num_others, ann_now.last_seen) == (3, 40, 1, NOW + 90)
    assert ann_now.agreement.value == found["bob"].agreement.value == 0.5
    assert (found["bob"].num_done, found["bob"].seconds, found["bob"].last_seen) == (2, 60, NOW + 500)
    root = found["root"]
    assert (root.num_done, root.seconds, root.agreement.value, root.last_seen) == (0, None, None, None)
    (alone,) = roster.labelers(world.store, ann.id)
    assert (alone.num_done, alone.seconds, alone.agreement) == (3, 40, ann_now.agreement)
    with pytest.raises(NotFoundError):
        roster.labelers(world.store, "nobody")


def test_history_is_the_latest_first_with_agreement(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    items = world.items(world.batch("news", overlap=2), 2)
    judge(world.store, ann, {items[0].id: (1, 2, 3), items[1].id: (1, 2, 3)}, seconds=3)
    judge(world.store, bob, {items[0].id: (1, 3, 2)})
    with world.store.read() as session:
        second, first = roster.history(session, ann)
        assert len(roster.history(session, ann, limit=1)) == 1
        assert len(roster.meetings_of(session, ann)) == 1
    assert (first.prompt, first.batch, first.agreement) == ("news: question 0", "news", pytest.approx(2 / 3))
    assert (second.agreement, second.item_id) == (None, items[1].id)
    assert "fast" in second.nudges


def test_changes_hold_and_are_on_record(world: World) -> None:
    root, ann = world.user("root", "admin"), world.user("ann")
    change(world, ann, root, is_paused=True, tasks_per_day=20, weight=0.5)
    changed = reread(world, ann)
    assert (changed.is_paused, changed.tasks_per_day, changed.weight, changed.is_held_out) == (True, 20, 0.5, False)
    change(world, ann, root, is_paused=True)  # nothing new
    change(world, ann, root, tasks_per_day=None, screening="failed")
    changed = reread(world, ann)
    assert (changed.tasks_per_day, changed.screening, changed.is_paused) == (None, "failed", True)
    assert [(action, detail["what"], detail["new"]) for action, detail in events(world)] == [
        (roster.CHANGED, "is_paused", True),
        (roster.CHANGED, "tasks_per_day", 20),
        (roster.CHANGED, "weight", 0.5),
        (roster.CHANGED, "screening", "failed"),
        (roster.CHANGED, "tasks_per_day", None),
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"weight": -1}, {"weight": float("nan")}, {"weight": 11}, {"tasks_per_day": -1}, {"role": "king"}, {"name": "x"}],
)
def test_changes_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Changes.model_validate(wrong)


def test_another_role_ends_sessions_and_one_admin_stays(world: World) -> None:
    root, ann = world.user("root", "admin"), world.user("ann")
    with world.store.write() as session:
        people.open_session(session, session.get_one(User, ann.id))
    change(world, ann, root, role="labeler")  # the role they have: nothing happens
    assert world.count(Login) == 1
    change(world, ann, root, role="reviewer")
    assert (reread(world, ann).role, world.count(Login)) == ("reviewer", 0)
    assert events(world)[-1] == ("changed role", {"user": "ann", "old": "labeler", "new": "reviewer"})
    with pytest.raises(ForbiddenError, match="only admin"):
        change(world, root, root, role="labeler")


def test_held_out_people_teach_nothing(world: World) -> None:
    root, ann = world.user("root", "admin"), world.user("ann")
    judge(world.store, ann, {world.item(world.batch()).id: (1, 2, 3)})

    def taught() -> int:
        with world.store.read() as session:
            return len(session.scalars(judgements.for_training()).all())

    assert taught() == 1
    change(world, ann, root, is_held_out=True)
    assert taught() == 0
    change(world, ann, root, is_held_out=False)
    assert taught() == 1


def test_ending_sessions_takes_tokens_too(world: World) -> None:
    root, ann = world.user("root", "admin"), world.user("ann")
    with world.store.write() as session:
        user = session.get_one(User, ann.id)
        signed_in = people.open_session(session, user)
        _, secret = people.issue_token(session, user, "mine")
        roster.end_sessions(session, user, by=root)
    with world.store.read() as session:
        assert people.session_of(session, signed_in.token) is None
        assert people.holder_of(session, secret) is None
    assert events(world)[-1] == ("ended sessions", {"user": "ann"})


def test_weights_are_set_for_those_named(world: World) -> None:
    root, ann, bob = world.user("root", "admin"), world.user("ann"), world.user("bob", weight=0.7)
    with world.store.write() as session:
        roster.set_weights(session, {ann.id: 1.23456789, root.id: 99.0}, by=root, source="everything")
    assert [reread(world, user).weight for user in (ann, bob, root)] == [1.2346, 0.7, roster.MAX_WEIGHT]
    ((action, detail),) = events(world)
    assert (action, detail["source"], detail["weights"]) == (
        "set weights", "everything", {ann.id: 1.2346, root.id: roster.MAX_WEIGHT},
    )  # fmt: skip


def test_invitations_can_be_revoked_until_they_are_used(world: World) -> None:
    root = world.user("root", "admin")
    with world.store.write() as session:
        secrets = [people.invite(session, "labeler", by=root, note=note, now=NOW) for note in ("one", "two")]
        people.invite(session, "labeler", by=root, seconds=10, now=NOW - 100)  # has run out
    with world.store.read() as session:
        found = roster.open_invitations(session, now=NOW + 1)
        by_note = {invitation.note: invitation.id for invitation in found}
        assert sorted(by_note) == ["one", "two"]
    with world.store.write() as session:
        roster.revoke(session, by_note["one"], by=root, now=NOW + 1)
        roster.revoke(session, by_note["one"], by=root, now=NOW + 2)  # again: nothing happens
        with pytest.raises(NotFoundError):
            people.invitation_of(session, secrets[0], now=NOW + 2)
        people.accept(session, secrets[1], "zoe", "a long password", now=NOW + 2)
        with pytest.raises(ConflictError, match="used already"):
            roster.revoke(session, by_note["two"], by=root)
        with pytest.raises(NotFoundError):
            roster.revoke(session, "nothing", by=root)
    with world.store.read() as session:
        assert roster.open_invitations(session, now=NOW + 3) == []
        assert session.get_one(Invitation, by_note["one"]).revoked_at == NOW + 1
    assert [action for action, _ in events(world)].count("revoked an invitation") == 1
