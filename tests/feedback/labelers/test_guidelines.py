"""Versions of the guidelines: numbered from 1, never lost to somebody else's change."""

from __future__ import annotations

import pytest
from tests.feedback.world import World, together

from palate.errors import ConflictError, NotFoundError
from palate.feedback.labelers import guidelines
from palate.feedback.store.tables import Judgement, User


def write(world: World, user: User, text: str, after: int) -> int:
    with world.store.write() as session:
        return guidelines.write(session, user, text, after=after).version


def test_the_newest_version_applies_and_old_ones_stay(world: World) -> None:
    ada = world.user("Ada", "researcher")
    with world.store.read() as session:
        assert guidelines.latest(session) is None
    assert (write(world, ada, "Be kind. \n", 0), write(world, ada, "Be kind and brief.", 1)) == (1, 2)
    with world.store.read() as session:
        assert guidelines.latest(session) is not None
        assert [(each.version, each.text) for each in guidelines.history(session)] == [
            (2, "Be kind and brief."),
            (1, "Be kind."),
        ]
        assert guidelines.version_of(session, 1).author_id == ada.id
        with pytest.raises(NotFoundError, match="version 3"):
            guidelines.version_of(session, 3)


@pytest.mark.parametrize(
    ("text", "after", "message"),
    [("Other", 0, "meanwhile"), ("Be kind.\n", 1, "nothing has"), ("  ", 1, "nothing has")],
)
def test_a_change_that_changes_nothing_or_too_much_is_refused(
    world: World, text: str, after: int, message: str
) -> None:
    ada = world.user("Ada", "researcher")
    write(world, ada, "Be kind.", 0)
    with pytest.raises(ConflictError, match=message):
        write(world, ada, text, after)


def test_of_two_at_once_one_wins(world: World) -> None:
    ada, bo = world.user("Ada", "researcher"), world.user("Bo", "researcher")
    won = []

    def attempt(user: User) -> None:
        try:
            won.append(write(world, user, f"{user.name} was here", 0))
        except ConflictError:
            won.append(0)

    together([lambda: attempt(ada), lambda: attempt(bo)])
    assert sorted(won) == [0, 1]


def test_a_judgement_names_the_version_that_applied(world: World) -> None:
    ada, lea = world.user("Ada", "researcher"), world.user("Lea")
    world.items(world.batch(), 2)
    world.submit(world.claimed(lea))
    write(world, ada, "Be kind.", 0)
    world.submit(world.claimed(lea))
    with world.store.read() as session:
        lines = session.query(Judgement).order_by(Judgement.number).all()
    assert [(line.guideline_version, line.record.get("guideline_version")) for line in lines] == [
        (None, None),
        (1, "1"),
    ]
