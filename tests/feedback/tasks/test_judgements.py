"""The log: what a form becomes, what replaces what, what may teach, and that nothing acknowledged is ever lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select
from tests.feedback.world import LEASE, NOW, World, together

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Guideline, Item, Judgement, Review, Task, User
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.judgements import DemonstrationForm, RankingForm
from palate.records import Demonstration, Prompt, Provenance, Ranking, Response

LATER = NOW + LEASE + 1


def read_all(world: World) -> list[Judgement]:
    with world.store.read() as session:
        return list(session.scalars(select(Judgement).order_by(Judgement.number)))


def current(world: World) -> list[str]:
    with world.store.read() as session:
        return [line.id for line in session.scalars(judgements.current())]


def teaching(world: World) -> set[str]:
    with world.store.read() as session:
        return {line.id for line in session.scalars(judgements.for_training())}


def correct(world: World, user: User, line: Judgement, ranks: tuple[int, ...], **form: Any) -> Judgement:
    with world.store.write() as session:
        line = session.get_one(Judgement, line.number)
        form = {"seconds": 60.0, "confirmed": True, **form}
        handed = judgements.correct_ranking(session, user, line, RankingForm(ranks=ranks, **form), now=NOW + 9)
        assert handed.judgement is not None
        return handed.judgement


# forms


@pytest.mark.parametrize(
    "form",
    [
        {"ranks": ()},
        {"ranks": (0, 1)},
        {"ranks": (1, 51)},
        {"ranks": (1, 2), "ratings": (1,)},
        {"ranks": (1, 2), "ratings": (1, None)},
        {"ranks": (1, 2), "ratings": (1, 8)},
        {"ranks": (1, 2), "flags": (("opinion",),)},
        {"ranks": (1, 2), "flags": (("opinion",), ("no such flag",))},
        {"ranks": (1, 2), "strength": 4},
        {"ranks": (1, 2), "comment": "x" * 2001},
        {"ranks": (1, 2), "seconds": -1},
        {"ranks": (1, 2), "seconds": float("nan")},
        {"ranks": (1, 2), "labeler": "somebody else"},
    ],
)
def test_forms_that_cannot_be(form: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RankingForm(**form)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"ranks": (2, 1, 3)}, ()),
        ({"ranks": (1, 2, 3)}, ("as_shown",)),
        ({"ranks": (1, 2)}, ()),  # half of all pairs are as they were shown
        ({"ranks": (2, 2, 2)}, ("all_tied",)),
        ({"ranks": (1, 1)}, ()),
        ({"ranks": (2, 1, 3), "ratings": (4, 6, 1)}, ()),
        ({"ranks": (2, 1, 3), "ratings": (6, 5, 1)}, ("contradiction",)),
        ({"ranks": (2, 1, 3), "ratings": (5, 5, 5)}, ()),  # equal ratings leave the order open
        ({"ranks": (1, 1, 2), "ratings": (7, 3, 2)}, ()),  # and so does a tie
        ({"ranks": (1, 1, 2), "ratings": (7, 3, 4)}, ("contradiction",)),
        ({"ranks": (2, 1, 3), "ratings": (None, None, None)}, ()),
        ({"ranks": (2, 1, 3), "seconds": 5.9}, ("fast",)),
        ({"ranks": (2, 1, 3), "seconds": 6.0}, ()),
        ({"ranks": (1,), "seconds": 0.1}, ()),
        ({"ranks": (1, 2, 3), "ratings": (1, 2, 3), "seconds": 0}, ("contradiction", "as_shown", "fast")),
    ],
)
def test_nudges_by_hand(form: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert judgements.nudges_of(RankingForm(**{"seconds": 60, **form})) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_dense_ranks_keep_order_and_ties(ranks: list[int]) -> None:
    dense = judgements.dense(ranks)
    assert set(dense) == set(range(1, len(set(ranks)) + 1))
    pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks))]
    assert all((ranks[i] < ranks[j]) == (dense[i] < dense[j]) for i, j in pairs)


@given(st.permutations(range(6)), st.permutations("abcdef"))
def test_places_and_responses(order: list[int], said: list[str]) -> None:
    by_response = judgements.by_response(order, said)
    assert all(by_response[order[place]] == said[place] for place in range(6))
    assert judgements.by_place(order, by_response) == tuple(said)


# what a form becomes


def test_a_ranking_holds_everything_it_was_said_about(world: World) -> None:
    ann, batch, prompt = world.user("ann"), world.batch(), world.prompt("why?")
    world.add(Guideline(version=1, text="first", created_at=NOW), Guideline(version=2, text="second", created_at=NOW))
    responses = [
        Response(text=text, provenance=Provenance(model="tiny", checkpoint="abc", temperature=0.5, seed=seed))
        for seed, text in enumerate("pqrs")
    ]
    with world.store.write() as session:
        rows = [batches.add_response(session, prompt.id, response) for response in responses]
        batches.add_item(session, batch, prompt.id, [row.id for row in rows])
    task = world.claimed(ann)
    line = world.submit(
        task,
        (5, 1, 5, 9),
        NOW + 7,
        ratings=(4, 7, 4, 1),
        flags=((), ("opinion",), (), ("sexual", "violent")),
        seconds=33.5,
        comment="hard to say",
    )
    order = task.shown_order
    ranks, ratings, flags = [0] * 4, [0.0] * 4, [()] * 4
    for place, (rank, rating, flag) in enumerate(
        [(2, 4.0, ()), (1, 7.0, ("opinion",)), (2, 4.0, ()), (3, 1.0, ("sexual", "violent"))]
    ):
        ranks[order[place]], ratings[order[place]], flags[order[place]] = rank, rating, flag
    expected = Ranking(
        prompt=prompt,
        responses=tuple(responses),
        ranks=tuple(ranks),
        ratings=tuple(ratings),
        flags=tuple(flags),
        labeler="ann",
        shown_order=tuple(order),
        guideline_version="2",
        seconds=33.5,
    )
    with world.store.read() as session:
        assert list(judgements.rankings(session, judgements.current())) == [expected]
    assert (line.guideline_version, line.seconds, line.comment, line.created_at) == (2, 33.5, "hard to say", NOW + 7)
    assert (line.user_id, line.task_id, line.item_id, line.quality) == (ann.id, task.id, task.item_id, {})


def test_a_pair_has_a_strength(world: World) -> None:
    world.item(world.batch(kind="pair"), k=2)
    task = world.claimed(world.user("ann"))
    line = world.submit(task, (2, 1), strength=3)
    assert Ranking.model_validate(line.record).strength == 3.0


def test_a_demonstration_has_an_author(world: World) -> None:
    ann = world.user("ann")
    item = world.item(world.batch(kind="demonstration"), k=0)
    task = world.claimed(ann)
    text = "Because.\0\n\n```python\nprint('<script>')\n```  "

    def hand_in(text: str) -> None:
        with world.store.write() as session:
            judgements.submit_demonstration(session, ann, session.get_one(Task, task.id), DemonstrationForm(text=text))

    with pytest.raises(ConflictError, match="write an answer first"):
        hand_in(" \n ")
    hand_in(text)
    hand_in(text)
    with world.store.read() as session:
        prompt = judgements.prompt_of(session, session.get_one(Item, item.id))
        written = list(judgements.demonstrations(session, judgements.for_training()))
        assert written == [
            Demonstration(prompt=prompt, response=Response(text=text.replace("\0", "\ufffd")), author="ann")
        ]
        assert list(judgements.rankings(session, judgements.current())) == []


def test_a_form_of_another_kind_or_size(world: World) -> None:
    ann = world.user("ann")
    world.item(world.batch())
    task = world.claimed(ann)
    with pytest.raises(ConflictError, match="2 ranks for 3 responses"):
        world.submit(task, (2, 1))
    with pytest.raises(ConflictError, match="asks for a ranking"), world.store.write() as session:
        judgements.submit_demonstration(session, ann, session.get_one(Task, task.id), DemonstrationForm(text="so"))
    assert read_all(world) == []
    assert world.task(task).state == "leased"


def test_nothing_is_stored_before_the_question_is_answered(world: World) -> None:
    world.item(world.batch())
    task = world.claimed(world.user("ann"))
    form = RankingForm(ranks=(1, 2, 3), seconds=60)
    handed = world.hand(task, form)
    assert (handed.judgement, handed.nudges) == (None, ("as_shown",))
    assert (read_all(world), world.task(task).state) == ([], "leased")
    line = world.hand(task, form.model_copy(update={"confirmed": True})).judgement
    assert line is not None
    assert line.quality == {"nudges": ["as_shown"]}


def test_handing_in_twice_is_one_judgement(world: World) -> None:
    world.add(Guideline(version=1, text="first", created_at=NOW))
    world.item(world.batch())
    task = world.claimed(world.user("ann"))
    line = world.submit(task, comment="mine")
    world.add(Guideline(version=2, text="second", created_at=NOW))
    assert world.submit(task, seconds=75, comment="mine").id == line.id  # the page's clock went on
    for other in ({"ranks": (1, 1, 2)}, {"comment": "another"}, {"flags": (("opinion",), (), ())}):
        with pytest.raises(ConflictError, match="already submitted"):
            world.submit(task, **{"comment": "mine", **other})
    assert [each.id for each in read_all(world)] == [line.id]


# what replaces what


def test_a_correction_supersedes(world: World) -> None:
    ann = world.user("ann")
    world.item(world.batch())
    task = world.claimed(ann)
    first = world.submit(task)
    second = correct(world, ann, first, (3, 1, 2), comment="on reflection")
    third = correct(world, ann, second, (1, 2, 3))
    assert [line.supersedes for line in read_all(world)] == [None, first.id, second.id]
    assert current(world) == [third.id]
    assert (second.quality, third.quality) == ({"edited": True}, {"nudges": ["as_shown"], "edited": True})
    assert (third.task_id, third.item_id) == (task.id, task.item_id)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        correct(world, ann, first, (2, 1, 3))
    with pytest.raises(ConflictError, match="2 ranks"):
        correct(world, ann, third, (2, 1))
    assert world.task(task).state == "submitted"


def test_what_was_taken_back_can_be_done_again(world: World) -> None:
    ann = world.user("ann")
    item = world.item(world.batch())
    task = world.claimed(ann)
    first = world.submit(task)
    gone = world.withdraw(ann, first, NOW + 5)
    assert (gone.kind, gone.record, gone.supersedes, gone.item_id) == ("withdrawal", {}, first.id, item.id)
    assert current(world) == []
    assert (world.task(task).state, world.task(task).leased_until) == ("leased", NOW + 5 + LEASE)
    for act in (
        lambda: world.withdraw(ann, first),
        lambda: world.withdraw(ann, gone),
        lambda: correct(world, ann, first, (1, 1, 2)),
        lambda: correct(world, ann, gone, (1, 1, 2)),
    ):
        with pytest.raises(ConflictError):
            act()
    second = world.submit(task, (3, 2, 1))
    assert current(world) == [second.id]
    world.check_places()


def test_taking_back_what_came_too_late_holds_no_place(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    world.item(world.batch())
    task = world.claimed(ann)
    world.claimed(bob, LATER)
    world.withdraw(ann, world.submit(task, now=LATER))
    assert (world.task(task).state, world.task(task).is_surplus) == ("released", False)
    world.check_places()


def test_only_ones_own(world: World) -> None:
    ann, eve = world.user("ann"), world.user("eve", "admin")
    world.item(world.batch())
    line = world.submit(world.claimed(ann))
    with pytest.raises(NotFoundError):
        world.withdraw(eve, line)
    with pytest.raises(NotFoundError):
        correct(world, eve, line, (1, 1, 2))
    assert current(world) == [line.id]


def test_a_thumb_can_be_taken_back_but_is_no_ranking_to_correct(world: World) -> None:
    ann = world.user("ann", "chat")
    thumb = Ranking(prompt=Prompt.from_text("why?"), responses=(Response(text="so"),), ranks=(1,), ratings=(7,))
    with world.store.write() as session:
        line = judgements.append(session, "thumb", thumb.model_dump(mode="json"), ann, consent=False, now=NOW)
    with pytest.raises(ConflictError, match="only a ranking"):
        correct(world, ann, line, (1,))
    gone = world.withdraw(ann, line)
    assert (gone.consent, gone.task_id) == (False, None)
    assert current(world) == []


@pytest.mark.parametrize("other", ["correct", "withdraw"])
def test_of_two_changes_at_once_one_wins(other: str, world: World) -> None:
    ann = world.user("ann")
    world.item(world.batch())
    line = world.submit(world.claimed(ann))

    def attempt(act: Callable[[], Judgement]) -> str | None:
        try:
            return act().id
        except ConflictError:
            return None

    acts: list[Callable[[], Judgement]] = [lambda: correct(world, ann, line, (3, 1, 2))] * 4
    if other == "withdraw":
        acts[1::2] = [lambda: world.withdraw(ann, line)] * 2
    won = [made for made in together([lambda act=act: attempt(act) for act in acts]) if made is not None]
    assert len(won) == 1
    assert [(each.id, each.supersedes) for each in read_all(world)] == [(line.id, None), (won[0], line.id)]
    world.check_places()


def test_of_two_lines_that_supersede_one_at_once_one_wins(world: World) -> None:
    """Also where nothing else would make them wait: `append` alone."""
    ann, bob = world.user("ann"), world.user("bob")
    world.item(world.batch())
    line = world.submit(world.claimed(ann))

    def append(user: User) -> bool:
        try:
            with world.store.write() as session:
                judgements.append(session, "withdrawal", {}, user, supersedes=line)
        except ConflictError:
            return False
        return True

    assert sorted(together([lambda u=u: append(u) for u in (ann, bob)])) == [False, True]


# what may teach


def test_what_may_teach(world: World) -> None:
    ann, late, exam = world.user("ann"), world.user("late"), world.user("exam", is_held_out=True)
    world.item(world.batch(overlap=2))
    good = world.submit(world.claimed(ann))
    world.submit(world.claimed(exam))  # held out
    world.item(world.batch("arena", kind="arena"), k=2)
    world.submit(world.claimed(ann), (2, 1))
    world.item(world.batch("full"))
    task = world.claimed(late)
    also_good = world.submit(world.claimed(ann, LATER), now=LATER)
    assert world.submit(task, now=LATER).quality == {"surplus": True}
    world.item(world.batch("test", is_screening=True, threshold=0.5), gold=[1, 2, 3])
    world.submit(world.claimed(world.user("new")))
    thumb = Ranking(prompt=Prompt.from_text("why?"), responses=(Response(text="so"),), ranks=(1,), ratings=(7,))
    with world.store.write() as session:
        said = thumb.model_dump(mode="json")
        agreed = judgements.append(session, "thumb", said, ann, consent=True)
        judgements.append(session, "thumb", said, late, consent=False)
    assert len(current(world)) == 8
    assert teaching(world) == {good.id, also_good.id, agreed.id}


def test_the_latest_review_decides(world: World) -> None:
    ann, bob, judge = world.user("ann"), world.user("bob"), world.user("judge", "reviewer")
    item = world.item(world.batch(overlap=2))
    said = {world.submit(world.claimed(ann)).id, world.submit(world.claimed(bob), (3, 2, 1)).id}
    other = world.item(world.batch("other"))
    elsewhere = world.submit(world.claimed(ann))
    assert elsewhere.item_id == other.id

    def settlement() -> Judgement:
        with world.store.write() as session:
            return judgements.append(session, "ranking", {}, judge, item_id=item.id)

    def review(decision: str, line: Judgement | None, now: float) -> set[str]:
        judgement_id = line.id if line else None
        row = Review(item_id=item.id, reviewer_id=judge.id, decision=decision, judgement_id=judgement_id)
        row.created_at = now
        world.add(row)
        return teaching(world) - {elsewhere.id}

    assert review("keep", None, NOW) == said
    assert review("discard", None, NOW + 1) == set()
    first = settlement()
    assert review("settle", first, NOW + 2) == {first.id}
    second = settlement()
    assert review("settle", second, NOW + 3) == {second.id}
    assert review("keep", None, NOW + 4) == said | {first.id, second.id}
    assert elsewhere.id in teaching(world)


def test_an_edited_answer_is_a_demonstration_too(world: World) -> None:
    ann = world.user("ann", "chat")
    prompt = Prompt.from_text("why?")
    edit = Ranking(
        prompt=prompt, responses=(Response(text="so"), Response(text="because")), ranks=(2, 1), labeler="ann"
    )
    with world.store.write() as session:
        judgements.append(session, "edit", edit.model_dump(mode="json", exclude_defaults=True), ann)
    with world.store.read() as session:
        assert list(judgements.rankings(session, judgements.for_training())) == [edit]
        assert list(judgements.demonstrations(session, judgements.for_training())) == [
            Demonstration(prompt=prompt, response=Response(text="because"), author="ann")
        ]


# nothing is lost


def test_killed_in_the_middle_of_its_work(world: World, url: str) -> None:
    """A process is killed while it hands in, again and again; whatever it said was stored is stored."""
    users = [world.user("ann"), world.user("bob")]
    world.items(world.batch(overlap=2), 3)
    script = Path(__file__).parents[1] / "at_work.py"
    command = [sys.executable, script, url, *(user.id for user in users), "--again"]
    acknowledged: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        acknowledged.append(line.strip())
        if len(acknowledged) == 25:
            process.kill()  # SIGKILL; lines that it had printed by then are still read
    process.stdout.close()
    assert process.wait() == -9
    assert len(acknowledged) >= 25
    world.store.close()
    reopened = Store(url)
    again = World(reopened)
    assert set(acknowledged) <= {line.id for line in read_all(again)}
    again.check_places()
    if reopened.is_sqlite:
        with reopened.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    task = again.claim(users[0], LATER * 1e6)  # and work goes on
    assert task is not None
    again.submit(task, now=LATER * 1e6)
    again.check_places()
    reopened.close()


@pytest.mark.parametrize(
    ("offered", "given", "flags", "noted"),
    [
        (["opinion", "violent"], ((), ()), ((), ()), ("violent", "opinion")),
        (["opinion"], None, None, None),
        ([], ((), ()), None, None),
    ],
)
def test_that_no_flag_was_set_is_said_where_somebody_was_asked(
    world: World, offered: list[str], given: Any, flags: Any, noted: Any
) -> None:
    """A reward model learns from it: it is not the same as not having been asked."""
    ann, batch, prompt = world.user("ann"), world.batch(settings={"flags": offered}), world.prompt("why?")
    with world.store.write() as session:
        rows = [batches.add_response(session, prompt.id, Response(text=text)) for text in "pq"]
        batches.add_item(session, batch, prompt.id, [row.id for row in rows])
    world.submit(world.claimed(ann), (1, 2), NOW + 7, flags=given)
    with world.store.read() as session:
        (ranking,) = judgements.rankings(session, judgements.current())
    assert (ranking.flags, ranking.flags_offered) == (flags, noted)
