"""Counting what comes in: judgements over time, and how many each item has."""

from __future__ import annotations

from tests.feedback.world import NOW, World

from palate.feedback.tasks import collecting
from palate.feedback.tasks.collecting import DAY, HOUR


def test_an_empty_workspace_has_nothing(world: World) -> None:
    with world.store.read() as session:
        said = collecting.throughput(session, now=NOW)
        assert (said.total, said.last_day, said.people, dict(said.counts)) == (0, 0, 0, {})
        assert collecting.coverage(session) == []


def test_hours_become_days_and_none_is_left_out(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.items(world.batch(overlap=2), 3)
    world.submit(world.claimed(ann, NOW), now=NOW)
    world.submit(world.claimed(bob, NOW + 3 * HOUR), now=NOW + 3 * HOUR)
    with world.store.read() as session:
        said = collecting.throughput(session, now=NOW + 3 * HOUR)
    hour = int(NOW // HOUR)
    assert said.seconds == HOUR
    assert dict(said.counts) == {hour: 1, hour + 1: 0, hour + 2: 0, hour + 3: 1}
    late = world.submit(world.claimed(ann, NOW + 4 * DAY), now=NOW + 4 * DAY)
    world.withdraw(ann, late, NOW + 4 * DAY)
    with world.store.read() as session:
        said = collecting.throughput(session, now=NOW + 4 * DAY)
    assert said.seconds == DAY
    assert list(said.counts.values()) == [2, 0, 0, 0, 1]
    assert (said.total, said.last_day, said.people) == (3, 1, 2)


def test_items_are_counted_by_their_judgements(world: World) -> None:
    batch = world.batch(overlap=2)
    world.items(batch, 3)
    ann, bob = world.user("ann"), world.user("bob")
    for user, count in ((ann, 2), (bob, 1)):
        for _ in range(count):
            world.submit(world.claimed(user))
    world.claimed(bob)  # at work, which is no judgement yet
    with world.store.read() as session:
        (found,) = collecting.coverage(session)
    assert sum(number * count for number, count in found.items.items()) == 3
    assert found.num_items == 3
    assert found.num_complete == found.items.get(2, 0)
