"""The arena: exact counts by hand, what does not count, and that nothing is told too early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.feedback.talk import model
from tests.feedback.world import NOW, World

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.tables import Batch, Item, Judgement, Model, ResponseRow, Task, User
from palate.feedback.tasks import arena, judgements
from palate.feedback.tasks.arena import Plan, Vote
from palate.feedback.tasks.judgements import RankingForm
from palate.intervals import wilson
from palate.records import Candidates, Prompt, Response

SEED = arena.SEED


def vote(
    prompt: str, outcome: float, labeler: str = "ann", *, left: bool = True, words: tuple[int, int] = (5, 5)
) -> Vote:
    return Vote(prompt_id=prompt, labeler=labeler, outcome=outcome, first_was_left=left, words=words)


# --- counting


def test_every_prompt_counts_alike() -> None:
    """Three people on one prompt are no more than one on another: (2/3 + 0) / 2."""
    votes = [vote("a", 1), vote("a", 1, "bob"), vote("a", 0, "cy"), vote("b", 0)]
    win = arena.tally(votes).win
    assert win is not None
    assert win.rate == pytest.approx(1 / 3)
    assert (win.wins, win.ties, win.losses, win.num_prompts) == (2, 0, 2, 2)


def test_ties_are_half_a_win() -> None:
    win = arena.tally([vote("a", 0.5), vote("b", 1)]).win
    assert win is not None
    assert (win.rate, win.wins, win.ties, win.losses) == (0.75, 1, 1, 0)


def test_the_interval_is_by_prompt() -> None:
    """Asking more people about the same prompts does not narrow it."""
    few = [vote(str(i), float(i % 2)) for i in range(20)]
    many = [vote(str(i), float(i % 2), f"labeler {j}") for i in range(20) for j in range(10)]
    one, other = arena.tally(few).win, arena.tally(many).win
    assert one is not None
    assert other is not None
    assert (one.low, one.high) == (other.low, other.high)
    assert one.low is not None
    assert 0.2 < one.low < 0.4


def test_prompts_with_the_same_answer_are_ties() -> None:
    win = arena.tally([vote("a", 1)], alike=3).win
    assert win is not None
    assert (win.rate, win.ties, win.num_prompts) == ((1 + 3 / 2) / 4, 3, 4)


def test_leaning_to_the_left() -> None:
    """Of four decided votes three went to the left; the tie says nothing."""
    votes = [
        vote("a", 1, left=True),
        vote("b", 0, left=False),
        vote("c", 1, left=True),
        vote("d", 1, left=False),
        vote("e", 0.5, left=True),
    ]
    assert arena.tally(votes).left == wilson(3, 4)
    assert arena.tally([]).left.value is None


def test_by_labeler() -> None:
    votes = [vote("a", 1, "bob"), vote("b", 0.5, "bob"), vote("a", 0, "ann", left=False)]
    ann, bob = arena.tally(votes).labelers
    assert (ann.name, ann.wins, ann.ties, ann.losses, ann.rate, ann.left) == (
        "ann",
        0,
        0,
        1,
        wilson(0, 1),
        wilson(1, 1),
    )
    assert (bob.name, bob.wins, bob.ties, bob.losses, bob.rate, bob.left) == (
        "bob",
        1,
        1,
        0,
        wilson(1.5, 2),
        wilson(1, 1),
    )


def test_at_equal_length() -> None:
    """The longer answer always wins, and the first model's is longer more often: much of its lead is length."""
    votes = [vote(str(i), float(i < 15), words=(9, 3) if i < 15 else (3, 9)) for i in range(20)]
    found = arena.tally(votes)
    assert found.win is not None
    assert found.win.rate == 0.75
    assert found.at_equal_length is not None
    assert found.at_equal_length.value is not None
    assert 0.5 < found.at_equal_length.value < 0.7
    assert found.words == (7.5, 4.5)
    same = arena.tally([vote(str(i), float(i < 15)) for i in range(20)]).at_equal_length
    assert same is not None
    assert same.value == pytest.approx(0.75, abs=1e-4)
    assert arena.tally(votes[:9]).at_equal_length is None


def test_no_votes() -> None:
    empty = arena.tally([])
    assert (empty.win, empty.labelers, empty.at_equal_length) == (None, (), None)


# --- in the store


class Pit(World):
    """An arena between two models."""

    def open(self, pairs: Sequence[tuple[str, str]], **plan: Any) -> Batch:
        self.first, self.second = model(self, "runs/old"), model(self, "runs/new")
        with self.store.write() as session:
            ids = (self.first.id, self.second.id)
            batch = arena.create(session, Plan(name="autumn", model_ids=ids, **plan), by=None, now=NOW)  # type: ignore[arg-type]
            arena.fill(
                session, batch, drawn(first for first, _ in pairs), drawn(second for _, second in pairs), now=NOW
            )
            return batch

    def judge(self, user: User, winner: str | None, now: float = NOW) -> Judgement:
        """Prefer the answer of this text in the next pair; None for a tie."""
        task = self.claimed(user, now)
        return self.submit(task, self.ranks(task, winner), now)

    def ranks(self, task: Task, winner: str | None) -> list[int]:
        with self.store.read() as session:
            item = session.get_one(Item, task.item_id)
            texts = judgements.by_place(task.shown_order, judgements.responses_of(session, item))
            return [1 if winner is None or text.text.startswith(winner) else 2 for text in texts]

    def closed(self, batch: Batch, now: float = NOW + 10) -> arena.Tally:
        with self.store.write() as session:
            arena.close(session, session.get_one(Batch, batch.id), now=now)
        return self.result(batch)

    def result(self, batch: Batch) -> arena.Tally:
        with self.store.read() as session:
            return arena.result(session, session.get_one(Batch, batch.id))

    def progress(self, batch: Batch) -> arena.Progress:
        with self.store.read() as session:
            return arena.progress(session, session.get_one(Batch, batch.id))


def drawn(texts: Sequence[str]) -> list[Candidates]:
    return [
        Candidates(prompt=Prompt.from_text(f"question {i}"), responses=(Response(text=text),))
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def pit(world: World) -> Pit:
    return Pit(world.store)


def test_from_the_pairs_to_the_result(pit: Pit) -> None:
    batch = pit.open([("old 0", "new 0"), ("old 1", "new 1 is longer")], overlap=2)
    ann, bob = pit.user("ann"), pit.user("bob")
    for user, winners in ((ann, ("new", None)), (bob, ("new", "old"))):
        for winner in winners:
            pit.judge(user, winner)
    assert pit.progress(batch) == arena.Progress(pairs=2, votes=4, wanted=4, labelers=2, left_out=0, alike=0)
    found = pit.closed(batch)
    assert found.win is not None
    assert found.win.rate == pytest.approx((0 + (0.5 + 1) / 2) / 2)
    assert (found.win.wins, found.win.ties, found.win.losses) == (1, 1, 2)
    assert [(each.name, each.wins, each.ties, each.losses) for each in found.labelers] == [
        ("ann", 0, 1, 1),
        ("bob", 1, 0, 1),
    ]
    assert found.words == (2, 3)


def test_the_left_is_where_it_was_shown(pit: Pit) -> None:
    batch = pit.open([(f"old {i}", f"new {i}") for i in range(12)])
    ann = pit.user("ann")
    for _ in range(12):
        pit.submit(pit.claimed(ann), [1, 2])
    found = pit.closed(batch)
    assert found.left == wilson(12, 12)
    assert found.win is not None
    assert 0 < found.win.wins < 12  # else one in 2,000


def test_nothing_is_told_before_the_end(pit: Pit) -> None:
    batch = pit.open([("old 0", "new 0")])
    pit.judge(pit.user("ann"), "new")
    with pytest.raises(ConflictError, match="shown when the arena is closed"):
        pit.result(batch)
    pit.closed(batch)
    with pytest.raises(ConflictError, match="closed already"):
        pit.closed(batch)


def test_what_is_said_after_the_end_does_not_count(pit: Pit) -> None:
    batch = pit.open([("old 0", "new 0"), ("old 1", "new 1")], overlap=2)
    ann, bob = pit.user("ann"), pit.user("bob")
    first = pit.judge(ann, "new")
    second = pit.judge(ann, "new")
    late = pit.claimed(bob)
    before = pit.closed(batch)
    pit.submit(late, pit.ranks(late, "old"), NOW + 20)  # the form was open
    with pit.store.write() as session:  # and somebody changes their mind once the names are known
        line = session.get_one(Judgement, first.number)
        task = session.get_one(Task, line.task_id)
        form = RankingForm(ranks=tuple(pit.ranks(task, "old")), seconds=9, confirmed=True)
        judgements.correct_ranking(session, session.get_one(User, ann.id), line, form, now=NOW + 20)
    pit.withdraw(ann, second, NOW + 20)
    assert pit.result(batch) == before
    assert before.win is not None
    assert (before.win.wins, before.win.losses) == (0, 2)


def test_corrections_before_the_end_count(pit: Pit) -> None:
    batch = pit.open([("old 0", "new 0"), ("old 1", "new 1")])
    ann = pit.user("ann")
    pit.withdraw(ann, pit.judge(ann, "new"))
    pit.judge(ann, "old")
    found = pit.closed(batch)
    assert found.win is not None
    assert (found.win.wins, found.win.losses) == (1, 0)


def test_surplus_does_not_count(pit: Pit) -> None:
    batch = pit.open([("old 0", "new 0")], overlap=1)
    slow, quick = pit.user("slow"), pit.user("quick")
    late = pit.claimed(slow, NOW)
    pit.judge(quick, "old", NOW + 7200)
    pit.submit(late, pit.ranks(late, "new"), NOW + 7201)
    found = pit.closed(batch, NOW + 7300)
    assert found.win is not None
    assert (found.win.wins, found.win.losses) == (1, 0)
    assert pit.progress(batch).votes == 1


def test_arenas_train_nothing(pit: Pit) -> None:
    pit.open([("old 0", "new 0")])
    pit.judge(pit.user("ann"), "new")
    with pit.store.read() as session:
        assert list(judgements.rankings(session, judgements.for_training())) == []


def test_answers_that_name_their_model_are_left_out(pit: Pit) -> None:
    pairs = [("I am ChatGPT", "new 0"), ("old 1", "I am runs-7b"), ("old 2", "new 2"), ("the  same", "the same")]
    with pit.store.write() as session:
        session.add(Model(name="runs-7b", path="models/runs-7b", created_at=NOW))
    pit.first, pit.second = model(pit, "runs/old"), model(pit, "models/runs-7b")
    with pit.store.write() as session:
        batch = arena.create(session, Plan(name="x", model_ids=(pit.first.id, pit.second.id)), by=None, now=NOW)
        first, second = drawn([a for a, _ in pairs]), drawn([b for _, b in pairs])
        assert arena.fill(session, batch, first, second) == 1
    at = pit.progress(batch)
    assert (at.pairs, at.left_out, at.alike) == (1, 2, 1)
    with pit.store.read() as session:
        rows = {row.record["text"]: row.model_id for row in session.query(ResponseRow)}
    assert rows == {"old 2": pit.first.id, "new 2": pit.second.id}


def test_only_prompts_that_both_have_answered(pit: Pit) -> None:
    pit.first, pit.second = model(pit, "runs/old"), model(pit, "runs/new")
    with pit.store.write() as session:
        batch = arena.create(session, Plan(name="x", model_ids=(pit.first.id, pit.second.id)), by=None)
        assert arena.fill(session, batch, drawn(["a", "b", "c"]), list(reversed(drawn(["d", "e"])))) == 2
        for item in session.query(Item):
            texts = [response.text for response in judgements.responses_of(session, item)]
            assert texts in (["a", "d"], ["b", "e"])
        with pytest.raises(ConflictError, match="has its pairs already"):
            arena.fill(session, batch, drawn(["a"]), drawn(["b"]))


def test_nothing_to_compare(pit: Pit) -> None:
    with pytest.raises(ConflictError, match="there is nothing to compare"):
        pit.open([("same", "same")])


def test_nobody_is_asked_before_the_pairs_are_there(pit: Pit) -> None:
    first, second = model(pit, "runs/old"), model(pit, "runs/new")
    with pit.store.write() as session:
        batch = arena.create(session, Plan(name="x", model_ids=(first.id, second.id)), by=None)
        assert batch.state == "paused"
        assert arena.arenas(session) == [batch]


@pytest.mark.parametrize("name", ["old or runs/NEW?", "Runs/old in autumn"])
def test_a_name_that_tells(pit: Pit, name: str) -> None:
    first, second = model(pit, "runs/old"), model(pit, "runs/new")
    with pit.store.write() as session:
        with pytest.raises(ConflictError, match="does not name a model"):
            arena.create(session, Plan(name=name, model_ids=(first.id, second.id)), by=None)
        with pytest.raises(ConflictError, match="two different models"):
            arena.create(session, Plan(name="x", model_ids=(first.id, first.id)), by=None)
        with pytest.raises(NotFoundError, match="no such model"):
            arena.create(session, Plan(name="x", model_ids=(first.id, "nothing")), by=None)


def test_other_batches_are_no_arenas(pit: Pit) -> None:
    batch = pit.batch()
    with pit.store.read() as session:
        for batch_id in (batch.id, "nothing"):
            with pytest.raises(NotFoundError, match="no such arena"):
                arena.arena_of(session, batch_id)
        assert arena.arenas(session) == []
