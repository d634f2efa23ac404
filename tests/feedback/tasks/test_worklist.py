"""One person's work, on both databases: counts that claims keep, and changes that last as long as the batch."""

from __future__ import annotations

import pytest
from tests.feedback.world import NOW, World

from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, Judgement, Task, User
from palate.feedback.tasks import batches, judgements, queue, worklist
from palate.feedback.tasks.judgements import DemonstrationForm, RankingForm
from palate.feedback.tasks.worklist import Draft, Pile, Tally
from palate.records import Demonstration, Ranking


def pile_of(world: World, user: User, batch: Batch) -> Pile:
    with world.store.read() as session:
        return worklist.pile(session, session.get_one(User, user.id), batch)


def set_columns(world: World, row: User | Batch, **columns: object) -> None:
    with world.store.write() as session:
        found = session.get_one(type(row), row.id)
        for name, value in columns.items():
            setattr(found, name, value)


def said_of(world: World, task: Task) -> Draft | None:
    with world.store.read() as session:
        return worklist.said(session, session.get_one(Task, task.id))


def undo(world: World, user: User, task: Task, now: float = NOW) -> None:
    with world.store.write() as session:
        worklist.undo(session, session.get_one(User, user.id), session.get_one(Task, task.id), now=now)


def reopen(world: World, user: User, task: Task) -> None:
    with world.store.write() as session:
        worklist.reopen(session, session.get_one(User, user.id), session.get_one(Task, task.id))


def correct(
    world: World, user: User, task: Task, form: RankingForm | DemonstrationForm, now: float = NOW
) -> judgements.Handed:
    with world.store.write() as session:
        return worklist.correct(session, session.get_one(User, user.id), session.get_one(Task, task.id), form, now=now)


def test_what_is_left_is_what_can_be_claimed(world: World) -> None:
    lea, max_ = world.user("Lea"), world.user("Max")
    batch = world.batch(overlap=1)
    world.items(batch, 5)
    world.claimed(max_)
    first = world.claimed(lea)
    world.skip(first)
    world.submit(world.claimed(lea))
    world.claimed(lea)
    found = pile_of(world, lea, batch)
    # of five, one is Max's; the one that was skipped does not come back
    assert (found.done, found.in_hand, found.left, found.to_do, found.total) == (1, 1, 1, 2, 3)
    assert (found.pace, found.seconds_left) == (60, 120)

    world.submit(world.claimed(lea))
    world.submit(world.claimed(lea))
    assert world.claim(lea) is None
    assert pile_of(world, lea, batch).to_do == 0


def test_nobody_is_promised_more_than_their_share(world: World) -> None:
    lea = world.user("Lea")
    batch = world.batch(per_labeler=2)
    world.items(batch, 5)
    assert pile_of(world, lea, batch).total == 2
    world.submit(world.claimed(lea))
    assert (pile_of(world, lea, batch).done, pile_of(world, lea, batch).to_do) == (1, 1)
    world.submit(world.claimed(lea))
    assert pile_of(world, lea, batch).to_do == 0


def test_the_pace_is_the_median_and_unknown_before_the_first(world: World) -> None:
    lea = world.user("Lea")
    batch = world.batch()
    world.items(batch, 4)
    assert pile_of(world, lea, batch).pace is None
    assert pile_of(world, lea, batch).seconds_left is None
    for seconds in (10, 900, 30):
        world.submit(world.claimed(lea), seconds=seconds)
    assert pile_of(world, lea, batch).pace == 30


def test_a_test_hides_everything_else_until_it_is_passed(world: World) -> None:
    lea = world.user("Lea")
    work = world.batch("work")
    world.items(work, 2)
    test = world.batch("test", is_screening=True, threshold=0.75, created=NOW + 1)
    world.item(test, 0, gold=[1, 2, 3])

    def names() -> list[str]:
        with world.store.read() as session:
            return [each.batch.name for each in worklist.piles(session, session.get_one(User, lea.id))]

    assert names() == ["test"]
    set_columns(world, lea, screening="passed")
    assert names() == ["work"]


def test_yesterday_is_not_today(world: World) -> None:
    lea = world.user("Lea", tasks_per_day=2)
    world.items(world.batch(), 3)
    world.submit(world.claimed(lea), now=NOW, seconds=40)
    world.submit(world.claimed(lea), now=NOW + queue.DAY / 2, seconds=50)
    with world.store.read() as session:
        user = session.get_one(User, lea.id)
        assert worklist.tally(session, user, now=NOW + queue.DAY - 1) == Tally(done=2, seconds=90)
        assert worklist.standing(session, user, now=NOW + queue.DAY - 1) == "limit"
        assert worklist.tally(session, user, now=NOW + queue.DAY + 1) == Tally(done=1, seconds=50)
        assert worklist.standing(session, user, now=NOW + queue.DAY + 1) == "open"


@pytest.mark.parametrize(
    ("columns", "standing"), [({"is_paused": True}, "paused"), ({"screening": "failed"}, "failed"), ({}, "open")]
)
def test_standing_says_why_there_is_no_work(world: World, columns: dict[str, object], standing: str) -> None:
    lea = world.user("Lea", **columns)
    with world.store.read() as session:
        assert worklist.standing(session, lea) == standing


def test_what_was_said_comes_back_by_place(world: World) -> None:
    """The shuffle is undone twice over: into the record, and out of it again."""
    lea = world.user("Lea")
    batch = world.batch()
    for number in range(4):  # four shuffles
        world.item(batch, number, k=4)
    for _ in range(4):
        task = world.claimed(lea)
        form = {"ratings": (3, 7, 1, 3), "flags": (("opinion",), (), ("off_task", "sexual"), ())}
        world.submit(task, (2, 1, 3, 2), comment="hm", seconds=33, **form)
        found = said_of(world, task)
        assert found is not None
        assert (found.ranks, found.ratings, found.comment, found.seconds) == ((2, 1, 3, 2), (3, 7, 1, 3), "hm", 33)
        assert found.flags == (("opinion",), (), ("off_task", "sexual"), ())


def test_a_pair_remembers_its_strength(world: World) -> None:
    lea = world.user("Lea")
    world.item(world.batch(kind="pair"), k=2)
    task = world.claimed(lea)
    world.submit(task, (2, 1), strength=3)
    found = said_of(world, task)
    assert found is not None
    assert (found.ranks, found.strength) == ((2, 1), 3)


def test_undo_gives_the_form_back(world: World) -> None:
    lea = world.user("Lea")
    world.items(world.batch(), 1)
    task = world.claimed(lea)
    world.submit(task, (3, 1, 2), comment="wait")
    undo(world, lea, task, now=NOW + 5)
    again = world.task(task)
    assert again.state == "leased"
    assert again.draft is not None
    assert (again.draft["ranks"], again.draft["comment"], again.draft["seconds"]) == ([3, 1, 2], "wait", 60)
    assert said_of(world, task) is None
    world.submit(task, (1, 3, 2))
    world.check_places()
    with world.store.read() as session:
        kinds = [line.kind for line in session.query(Judgement).order_by(Judgement.number)]
        (ranking,) = judgements.rankings(session, judgements.current())
    assert kinds == ["ranking", "withdrawal", "ranking"]
    assert judgements.by_place(task.shown_order, ranking.ranks) == (1, 3, 2)


def test_nothing_is_undone_twice(world: World) -> None:
    lea = world.user("Lea")
    world.items(world.batch(), 1)
    task = world.claimed(lea)
    world.submit(task)
    undo(world, lea, task)
    with pytest.raises(ConflictError, match="nothing was handed in"):
        undo(world, lea, task)


def test_a_corrected_ranking_supersedes_the_first(world: World) -> None:
    lea = world.user("Lea")
    world.items(world.batch(), 1)
    task = world.claimed(lea)
    world.submit(task, (3, 1, 2))
    handed = correct(world, lea, task, RankingForm(ranks=(1, 1, 2), seconds=70, comment="better so"))
    assert handed.judgement is not None
    found = said_of(world, task)
    assert found is not None
    assert (found.ranks, found.comment) == ((1, 1, 2), "better so")
    assert world.count(Judgement) == 2


def test_a_corrected_ranking_is_asked_about_too(world: World) -> None:
    lea = world.user("Lea")
    world.items(world.batch(), 1)
    task = world.claimed(lea)
    world.submit(task, (3, 1, 2))
    handed = correct(world, lea, task, RankingForm(ranks=(1, 1, 1), seconds=70))
    assert (handed.judgement, handed.nudges) == (None, ("all_tied",))
    assert world.count(Judgement) == 1


def test_a_demonstration_is_corrected_too(world: World) -> None:
    lea = world.user("Lea")
    batch = world.batch(kind="demonstration")
    prompt = world.prompt("Write about rain.")
    with world.store.write() as session:
        batches.add_item(session, session.get_one(Batch, batch.id), prompt.id)
    task = world.claimed(lea)
    with world.store.write() as session:
        found = session.get_one(Task, task.id)
        judgements.submit_demonstration(session, lea, found, DemonstrationForm(text="It rains.", seconds=20))
    with pytest.raises(ConflictError, match="write an answer"):
        correct(world, lea, task, DemonstrationForm(text="  "))
    correct(world, lea, task, DemonstrationForm(text="It rained.", seconds=30, comment="tense"))
    assert said_of(world, task) == Draft(text="It rained.", seconds=30, comment="tense")
    with world.store.read() as session:
        (made,) = judgements.demonstrations(session, judgements.current())
    assert made == Demonstration(prompt=prompt, response={"text": "It rained."}, author="Lea")


def test_a_form_of_another_kind_corrects_nothing(world: World) -> None:
    lea = world.user("Lea")
    world.items(world.batch(), 1)
    task = world.claimed(lea)
    world.submit(task)
    with pytest.raises(ConflictError, match="wants a ranking"):
        correct(world, lea, task, DemonstrationForm(text="No."))
    assert world.count(Judgement) == 1


@pytest.mark.parametrize("change", ["undo", "correct", "reopen"])
def test_a_closed_batch_stays_as_it_is(world: World, change: str) -> None:
    lea = world.user("Lea")
    batch = world.batch()
    world.items(batch, 1)
    task = world.claimed(lea)
    world.skip(task) if change == "reopen" else world.submit(task)
    set_columns(world, batch, state="closed")
    changes = {
        "undo": lambda: undo(world, lea, task),
        "correct": lambda: correct(world, lea, task, RankingForm(ranks=(1, 2, 2), seconds=60)),
        "reopen": lambda: reopen(world, lea, task),
    }
    with pytest.raises(ConflictError, match="closed"):
        changes[change]()
    assert world.task(task).state == ("skipped" if change == "reopen" else "submitted")


def test_a_test_that_is_over_is_not_taken_again(world: World) -> None:
    lea = world.user("Lea")
    test = world.batch(is_screening=True, threshold=0.5)
    world.item(test, gold=[1, 2, 3])
    task = world.claimed(lea)
    world.submit(task, (2, 1, 3))
    undo(world, lea, task)  # while it lasts
    world.submit(task, (3, 2, 1))
    set_columns(world, lea, screening="failed")
    with pytest.raises(ConflictError, match="test is over"):
        undo(world, lea, task)
    with pytest.raises(ConflictError, match="test is over"):
        correct(world, lea, task, RankingForm(ranks=(1, 3, 2), seconds=60))


def test_finished_work_is_listed_with_what_can_be_done_about_it(world: World) -> None:
    lea, max_ = world.user("Lea"), world.user("Max")
    batch, old = world.batch("new", overlap=2), world.batch("old", created=NOW - 9, overlap=2)
    world.items(old, 1)
    world.items(batch, 2)
    world.submit(world.claimed(lea), now=NOW + 1)
    world.skip(world.claimed(lea), now=NOW + 2)
    world.submit(world.claimed(max_), now=NOW + 3)
    world.claimed(lea)
    set_columns(world, old, state="closed")
    with world.store.read() as session:
        found = worklist.finished(session, session.get_one(User, lea.id))
    rows = [(each.task.state, each.batch.name, each.prompt.text, each.can_change) for each in found]
    assert rows == [("skipped", "new", "new: question 0", True), ("submitted", "old", "old: question 0", False)]


def test_what_is_said_fits_the_draft_of_every_ranking(world: World) -> None:
    """A form at the limits of what may be handed in comes back whole."""
    lea = world.user("Lea")
    world.item(world.batch(), k=9)
    task = world.claimed(lea)
    world.submit(task, (9, 8, 7, 6, 5, 4, 3, 2, 1), comment="x" * 2000, seconds=86400)
    found = said_of(world, task)
    assert found is not None
    assert found.ranks == (9, 8, 7, 6, 5, 4, 3, 2, 1)
    with world.store.read() as session:
        line = judgements.current_of_task(session, session.get_one(Task, task.id))
        assert line is not None
        assert Ranking.model_validate(line.record).shown_order == tuple(task.shown_order)
        assert session.get_one(Item, task.item_id).open_places == 0
