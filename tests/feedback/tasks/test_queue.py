"""The queue: leases, places, who is offered what; by hand, against a model, and with many at once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select, text
from tests.feedback.world import LEASE, NOW, World, together

from palate.errors import ConflictError, ForbiddenError, NotFoundError, TooManyError
from palate.feedback.store.tables import Batch, Item, Judgement, Review, Task, User
from palate.feedback.tasks import batches, queue

LATER = NOW + LEASE + 1


# leases


def test_a_task_stays_in_hand(world: World) -> None:
    ann = world.user("ann")
    world.items(world.batch(), 2)
    task = world.claimed(ann)
    assert task.leased_until == NOW + LEASE
    again = world.claimed(ann, NOW + 40)
    assert (again.id, again.leased_until) == (task.id, NOW + 40 + LEASE)
    world.check_places()


def test_a_lease_that_ran_out_goes_to_somebody_else(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    item = world.item(world.batch())
    task = world.claimed(ann)
    assert world.claim(bob, NOW + LEASE) is None
    assert world.claimed(bob, LATER).item_id == item.id
    assert world.task(task).state == "released"
    world.check_places()


def test_a_draft_keeps_the_lease(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.item(world.batch())
    task = world.claimed(ann)
    world.draft(task, {"ranks": [1]}, NOW + 90)
    assert world.claim(bob, LATER) is None
    assert world.task(task).leased_until == NOW + 90 + LEASE
    assert world.claim(bob, NOW + 90 + LEASE + 1) is not None


def test_a_draft_after_the_lease_takes_a_free_place_again(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.items(world.batch(), 2)
    task = world.claimed(ann)
    with world.store.write() as session:
        assert queue.release_expired(session, LATER) == 1
        assert queue.release_expired(session, LATER) == 0
    world.draft(task, {"a": 1}, LATER)
    assert world.task(task).state == "leased"
    assert world.claimed(bob, LATER).item_id != task.item_id
    world.check_places()


def test_a_draft_outlives_its_place(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    item = world.item(world.batch())
    task = world.claimed(ann)
    other = world.claimed(bob, LATER)
    world.draft(task, {"a": 1}, LATER + 1)
    assert (world.task(task).state, world.task(task).draft) == ("released", {"a": 1})
    world.skip(other, LATER + 2)
    again = world.claimed(ann, LATER + 3)
    assert (again.id, again.item_id, again.draft, again.state) == (task.id, item.id, {"a": 1}, "leased")
    world.check_places()


def test_handed_in_late_with_a_free_place(world: World) -> None:
    item = world.item(world.batch())
    task = world.claimed(world.user("ann"))
    with world.store.write() as session:
        queue.release_expired(session, LATER)
    assert world.open_places(item) == 1
    world.submit(task, now=LATER)
    assert (world.task(task).state, world.task(task).is_surplus, world.open_places(item)) == ("submitted", False, 0)


def test_handed_in_late_without_a_free_place(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    item = world.item(world.batch())
    task, other = world.claimed(ann), world.claimed(bob, LATER)
    kept = world.submit(task, now=LATER)
    assert kept.quality["surplus"] is True
    assert (world.task(task).state, world.task(task).is_surplus, world.open_places(item)) == ("submitted", True, 0)
    world.skip(other, LATER)
    assert world.open_places(item) == 1  # the surplus one held no place to give back
    world.check_places()


def test_late_but_nobody_noticed(world: World) -> None:
    world.item(world.batch())
    task = world.claimed(world.user("ann"))
    world.submit(task, now=LATER)
    assert not world.task(task).is_surplus
    world.check_places()


@pytest.mark.parametrize("end", ["submit", "skip"])
def test_what_is_done_is_done(end: str, world: World) -> None:
    ann = world.user("ann")
    world.item(world.batch())
    task = world.claimed(ann)
    if end == "submit":
        world.submit(task)
    else:
        world.skip(task)
    for act in (lambda: world.skip(task), lambda: world.draft(task, {}), lambda: world.submit(task, (1, 1, 2))):
        with pytest.raises(ConflictError, match="already"):
            act()
    world.check_places()


def test_a_skipped_item_is_for_others(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    item = world.item(world.batch())
    task = world.claimed(ann)
    world.skip(task)
    assert world.task(task).skip_reason == "no idea"
    assert world.claim(ann) is None
    assert world.claimed(bob).item_id == item.id


def test_a_skip_can_be_undone_while_there_is_a_place(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.item(world.batch())
    task = world.claimed(ann)
    world.skip(task)
    world.reopen(task, NOW + 5)
    task = world.task(task)
    assert (task.state, task.skip_reason, task.ended_at, task.leased_until) == ("leased", None, None, NOW + 5 + LEASE)
    world.skip(task)
    world.claimed(bob)
    with pytest.raises(ConflictError, match="others have finished"):
        world.reopen(task)
    world.check_places()


def test_what_was_submitted_is_not_reopened(world: World) -> None:
    world.item(world.batch())
    task = world.claimed(world.user("ann"))
    world.submit(task)
    with pytest.raises(ConflictError, match="take back"):
        world.reopen(task)


def test_somebody_elses_task_is_not_there(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.item(world.batch())
    task = world.claimed(ann)
    messages = []
    with world.store.read() as session:
        assert queue.task_of(session, ann, task.id).id == task.id
        for user, task_id in ((bob, task.id), (bob, "none such")):
            with pytest.raises(NotFoundError) as caught:
                queue.task_of(session, user, task_id)
            messages.append(str(caught.value))
    assert messages[0] == messages[1]


# who is offered what


def test_the_most_wanted_first_then_the_oldest(world: World) -> None:
    new, old = world.batch("new", created=NOW + 1), world.batch("old")
    items = [world.item(new, 0), world.item(old, 1), world.item(old, 2), world.item(new, 3, priority=0.5)]
    ann = world.user("ann")
    given = []
    for _ in items:
        task = world.claimed(ann)
        given.append(task.item_id)
        world.submit(task)
    assert given == [items[i].id for i in (3, 1, 2, 0)]
    assert world.claim(ann) is None


def test_one_batch_only(world: World) -> None:
    first, second = world.batch("first"), world.batch("second")
    world.item(first)
    wanted = world.item(second)
    ann = world.user("ann")
    assert world.claimed(ann).item_id != wanted.id
    task = world.claim(ann, batch=second)
    assert task is not None
    assert task.item_id == wanted.id


@pytest.mark.parametrize("state", ["paused", "closed"])
def test_a_batch_that_is_not_open_gives_no_work(state: str, world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    batch = world.batch(overlap=2)
    world.item(batch)
    task = world.claimed(ann)
    with world.store.write() as session:
        session.get_one(Batch, batch.id).state = state
    assert world.claim(ann) is None
    assert world.claim(bob) is None
    world.submit(task)  # what is begun may be handed in
    world.check_places()


def test_what_a_reviewer_has_decided_is_no_longer_asked(world: World) -> None:
    """Until a later review says that the item is open after all."""
    ann, judge = world.user("ann"), world.user("judge", "reviewer")
    batch = world.batch()
    discarded, other = world.item(batch, 0), world.item(batch, 1)
    review = {"item_id": discarded.id, "reviewer_id": judge.id}
    world.add(
        Review(decision="keep", created_at=NOW, **review), Review(decision="discard", created_at=NOW + 1, **review)
    )
    assert world.claimed(ann).item_id == other.id
    world.add(Review(decision="keep", created_at=NOW + 2, **review))
    assert world.claimed(world.user("bob")).item_id == discarded.id
    world.check_places()


def test_nobody_judges_their_own_text(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    batch = world.batch()
    prompt = world.prompt("who wrote this?")
    mine, other = world.responses(prompt, "mine", author=ann)[0], world.responses(prompt, "by a model")[0]
    with world.store.write() as session:
        item = batches.add_item(session, batch, prompt.id, [mine.id, other.id])
    assert world.claim(ann) is None
    assert world.claimed(bob).item_id == item.id


def test_screening_comes_first_and_alone(world: World) -> None:
    ann, eve, chief = world.user("ann"), world.user("eve", screening="passed"), world.user("chief", "admin")
    work = world.item(world.batch("work", overlap=9), priority=9)
    test = world.batch("test", is_screening=True, threshold=0.75)
    known = world.item(test, gold=[1, 2, 3])
    task = world.claimed(ann)
    assert task.item_id == known.id
    assert [world.claimed(user).item_id for user in (eve, chief)] == [work.id, work.id]
    with pytest.raises(ConflictError, match="every item of the screening test counts"):
        world.skip(task)
    world.submit(task)
    assert world.claim(ann) is None  # nothing else before the test is settled
    with world.store.write() as session:
        assert queue.must_be_screened(session, ann)
        assert [batch.name for batch in queue.batches_for(session, ann)] == ["test"]
        assert [batch.name for batch in queue.batches_for(session, eve)] == ["work"]
        session.get_one(User, ann.id).screening = "passed"
    assert world.claimed(ann).item_id == work.id
    world.check_places()


def test_everyone_can_take_the_test(world: World) -> None:
    test = world.batch("test", is_screening=True, threshold=0.75, overlap=1)
    item = world.item(test, gold=[1, 2, 3])
    assert {world.claimed(world.user(f"user {i}")).item_id for i in range(5)} == {item.id}


def test_without_an_open_test_nobody_must_take_it(world: World) -> None:
    test = world.batch("test", is_screening=True, threshold=0.75)
    world.item(test, gold=[1, 2, 3])
    work = world.item(world.batch("work"))
    with world.store.write() as session:
        session.get_one(Batch, test.id).state = "closed"
    assert world.claimed(world.user("ann")).item_id == work.id


def test_a_share_of_the_batch_for_each(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    batch, other = world.batch(per_labeler=2), world.batch("other", created=NOW + 1)
    world.items(batch, 4)
    spare = world.item(other)
    first = world.claimed(ann)
    world.skip(first)  # counts for nothing
    for _ in range(2):
        world.submit(world.claimed(ann))
    assert world.claimed(ann).item_id == spare.id
    assert world.claim(bob, batch=batch) is not None


def test_a_share_of_the_day(world: World) -> None:
    ann = world.user("ann", tasks_per_day=2)
    world.items(world.batch(lease_seconds=1e6), 5)
    for hour in range(2):
        world.submit(world.claimed(ann, NOW + 3600 * hour), now=NOW + 3600 * hour)
    with pytest.raises(TooManyError, match="2 tasks for today") as caught:
        world.claim(ann, NOW + 7200)
    assert caught.value.retry_after == queue.DAY - 7200
    with pytest.raises(TooManyError):
        world.claim(ann, NOW + queue.DAY - 1)
    task = world.claimed(ann, NOW + queue.DAY)
    assert world.claimed(ann, NOW + queue.DAY).id == task.id


def test_no_work_at_all_for_today(world: World) -> None:
    world.item(world.batch())
    with pytest.raises(TooManyError):
        world.claim(world.user("ann", tasks_per_day=0))


@pytest.mark.parametrize("column", [{"is_paused": True}, {"screening": "failed"}])
def test_paused_or_failed(column: dict[str, bool | str], world: World) -> None:
    ann = world.user("ann")
    world.items(world.batch(), 2)
    task = world.claimed(ann)
    with world.store.write() as session:
        for name, value in column.items():
            setattr(session.get_one(User, ann.id), name, value)
    with pytest.raises(ForbiddenError, match="ask whoever invited you"):
        world.claim(ann)  # the person of a request may be a moment old: what counts is the database
    world.submit(task)  # nothing is lost


# the order on the screen


def test_shown_order_is_a_persons_own() -> None:
    item = Item(id="an item", response_ids=list("abcd"))
    orders = {user: queue.shown_order(item, user) for user in (f"user {i}" for i in range(480))}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.values())
    assert all(queue.shown_order(item, user) == order for user, order in orders.items())
    seen = Counter(map(tuple, orders.values()))
    assert len(seen) == 24
    assert max(seen.values()) < 20 + 5 * 20**0.5  # 20 of each are expected
    assert queue.shown_order(Item(id="another", response_ids=list("abcdefgh")), "user 0") != queue.shown_order(
        Item(id="a third", response_ids=list("abcdefgh")), "user 0"
    )


def test_a_task_remembers_its_order(world: World) -> None:
    ann = world.user("ann")
    item = world.item(world.batch(), k=6)
    task = world.claimed(ann)
    assert task.shown_order == queue.shown_order(item, ann.id)
    assert world.claimed(ann, LATER).shown_order == task.shown_order


# against a model


@dataclass
class Place:
    """What the model knows of one task."""

    state: str
    until: float
    is_surplus: bool = False


@dataclass
class Model:
    """The queue in twenty lines: places are counted, never kept."""

    overlap: int
    items: list[str]
    tasks: dict[tuple[str, str], Place] = field(default_factory=dict)  # (item, user)

    def open(self, item: str) -> int:
        held = [p for (i, _), p in self.tasks.items() if i == item and (p.state, p.is_surplus) in HOLDING]
        return self.overlap - len(held)

    def release(self, now: float) -> None:
        for place in self.tasks.values():
            if place.state == "leased" and place.until < now:
                place.state = "released"

    def claim(self, user: str, now: float) -> str | None:
        self.release(now)
        mine = {item: place for (item, who), place in self.tasks.items() if who == user}
        free = [i for i in self.items if (i not in mine or mine[i].state == "released") and self.open(i) > 0]
        in_hand = next((item for item, place in mine.items() if place.state == "leased"), None)
        item = in_hand or next(iter(free), None)
        if item is not None:
            self.tasks[item, user] = Place("leased", now + LEASE)
        return item

    def act(self, what: str, item: str, user: str, now: float) -> bool:
        """Whether it is possible."""
        place = self.tasks[item, user]
        if what == "reopen":
            if place.state == "submitted" or (place.state != "leased" and self.open(item) < 1):
                return False
            place.state, place.until = "leased", now + LEASE
        elif place.state not in ("leased", "released"):
            return False
        elif what == "draft":
            place.state = "leased" if place.state == "leased" or self.open(item) > 0 else "released"
            place.until = now + LEASE
        elif what == "skip":
            place.state = "skipped"
        else:
            place.is_surplus = place.state == "released" and self.open(item) < 1
            place.state = "submitted"
        return True


HOLDING = {("leased", False), ("submitted", False)}


@pytest.mark.parametrize("seed", range(2))
def test_it_does_what_the_model_does(seed: int, world: World) -> None:
    draw = random.Random(seed)
    users = {f"user {i}": world.user(f"user {i}") for i in range(5)}
    names = {user.id: name for name, user in users.items()}
    items = world.items(world.batch(overlap=2), 4)
    model, now = Model(2, [item.id for item in items]), NOW
    tasks: dict[tuple[str, str], Task] = {}
    acts: dict[str, Callable[[Task, float], object]] = {
        "draft": lambda task, now: world.draft(task, {}, now),
        "skip": world.skip,
        "submit": lambda task, now: world.submit(task, now=now),
        "reopen": world.reopen,
    }
    outcomes: Counter[tuple[str, bool]] = Counter()
    for step in range(100):
        now += draw.choice([1, 10, LEASE * 0.7])
        name = draw.choice(list(users))
        what = draw.choice(["claim", "claim", *acts])
        mine = [key for key in tasks if key[1] == name]
        if what == "claim":
            task = world.claim(users[name], now)
            expected = model.claim(name, now)
            assert (task.item_id if task else None) == expected, f"step {step}"
            if task is not None:
                tasks[task.item_id, name] = task
            outcomes[what, task is not None] += 1
        elif mine:
            key = draw.choice(mine)
            possible = model.act(what, *key, now)
            if what == "submit" and not possible:
                what, act = "draft", acts["draft"]  # the same again would be the same judgement
            else:
                act = acts[what]
            if possible:
                act(tasks[key], now)
            else:
                with pytest.raises(ConflictError):
                    act(tasks[key], now)
            outcomes[what, possible] += 1
        with world.store.read() as session:
            now_there = {(t.item_id, names[t.user_id]): (t.state, t.is_surplus) for t in session.scalars(select(Task))}
            assert now_there == {key: (place.state, place.is_surplus) for key, place in model.tasks.items()}, step
            for item in session.scalars(select(Item)):
                assert item.open_places == model.open(item.id), step
    world.check_places()
    assert len(outcomes) >= 8, outcomes


# many at once


def test_twenty_claim_at_once(world: World) -> None:
    users = [world.user(f"user {i}") for i in range(20)]
    items = world.items(world.batch(overlap=3), 4)
    tasks = together([lambda user=user: world.claim(user) for user in users])
    given = Counter(task.item_id for task in tasks if isinstance(task, Task))
    assert given == {item.id: 3 for item in items}
    world.check_places()


def test_one_person_in_many_tabs(world: World) -> None:
    ann = world.user("ann")
    world.items(world.batch(overlap=2), 5)
    tasks = together([lambda: world.claim(ann)] * 8)
    assert len({task.id for task in tasks if isinstance(task, Task)}) == 1
    assert world.count(Task) == 1
    world.check_places()


def test_one_form_handed_in_many_times_at_once(world: World) -> None:
    world.item(world.batch(overlap=2))
    task = world.claimed(world.user("ann"))
    lines = together([lambda seconds=seconds: world.submit(task, seconds=60 + seconds) for seconds in range(8)])
    assert len({line.id for line in lines if isinstance(line, Judgement)}) == 1
    assert world.count(Judgement) == 1
    world.check_places()


def test_everything_at_once(world: World) -> None:
    """Claims, drafts, skips, submissions, withdrawals and leases running out, twelve at a time, on six items."""
    users = [world.user(f"user {i}") for i in range(6)]
    world.items(world.batch(overlap=2), 6)

    def busy(user: User, seed: int) -> None:
        draw = random.Random(seed)
        for step in range(8):
            now = NOW + step * LEASE * draw.choice([0.2, 0.6])
            try:
                task = world.claim(user, now)
                if task is None:
                    continue
                what = draw.choice(["submit", "submit", "withdraw", "skip", "draft", "leave", "reopen"])
                if what in ("submit", "withdraw"):
                    line = world.submit(task, now=now + draw.choice([1, LEASE + 1]))
                    if what == "withdraw":
                        world.withdraw(user, line, now)
                elif what == "skip":
                    world.skip(task, now)
                elif what == "draft":
                    world.draft(task, {"step": step}, now)
                elif what == "reopen":
                    world.skip(task, now)
                    world.reopen(task, now)
            except ConflictError:
                pass  # the other tab was faster

    together([lambda u=user, s=seed: busy(u, s) for seed, user in enumerate(users * 2)])  # two tabs each
    world.check_places()


def test_processes_share_the_work(sqlite_world: World, sqlite_url: str) -> None:
    """Two processes, each as three people, finish eight items with an overlap of three: no place is given twice."""
    world = sqlite_world
    users = [world.user(f"user {i}") for i in range(6)]
    items = world.items(world.batch(overlap=3), 8)
    script = Path(__file__).parents[1] / "at_work.py"
    processes = [
        subprocess.Popen(
            [sys.executable, script, sqlite_url, *(user.id for user in users[i::2])], stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    said = [line for process in processes for line in process.communicate(timeout=120)[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(said)) == len(said) == 24
    assert [world.open_places(item) for item in items] == [0] * 8
    world.check_places()


def test_one_releases_at_a_time(postgresql_world: World) -> None:
    """Two who each gave back one item's place and want the other's next would wait for each other."""
    world = postgresql_world
    world.items(world.batch(), 2)
    world.claimed(world.user("ann"))
    world.claimed(world.user("bob"), NOW + 50)
    with world.store.write() as first, world.store.write() as second:
        assert queue.release_expired(first, LATER) == 1
        assert queue.release_expired(second, LATER + 50) == 0
    with world.store.write() as session:
        assert queue.release_expired(session, LATER + 50) == 1
    world.check_places()


def test_what_its_owner_is_handing_in_is_not_released(postgresql_world: World) -> None:
    world = postgresql_world
    world.item(world.batch())
    task = world.claimed(world.user("ann"))
    with world.store.write() as owner, world.store.write() as other:
        queue.finish(owner, owner.get_one(Task, task.id), now=LATER)
        other.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert queue.release_expired(other, LATER) == 0
    assert world.task(task).state == "submitted"
    world.check_places()
