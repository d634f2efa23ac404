"""Screening tests: where their known answers come from, and how people did.

Known answers are the order that labelers agree on, a reviewer's settlement, ranks somebody enters, or rankings from a
file. An item of a test is a copy that shares prompt and responses with the item it was made from, so nothing changes
for those who judged that one.

The known answers can be wrong too: `item_results` shows which items nobody gets right, and `correct` changes their
ranks. Results are always computed from the ranks of now; who has passed stays as it was decided (`admission.settle`)
until `decide_again`. `retake` takes a person's answers back, so that they get the same test once more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, DataError, NotFoundError
from palate.feedback.labelers import admission
from palate.feedback.labelers.admission import Result
from palate.feedback.store import people
from palate.feedback.store.tables import Batch, Item, Judgement, Review, Task, User
from palate.feedback.tasks import batches, judgements, meetings, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.meetings import Opinion
from palate.records import Ranking

MAX_ITEMS = 200
"""Of one test; nobody should be asked more."""

DEFAULT_THRESHOLD = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An item that could be part of a test.

    Attributes:
        ranks: [K] known or agreed; None where nobody has judged it or the opinions cancel out.
        agreement: of its labelers; None where there are fewer than two.
        is_settled: the ranks are a reviewer's.
    """

    item: Item
    ranks: tuple[int, ...] | None
    num_labelers: int
    agreement: float | None
    is_settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """How people did on one item of a test.

    Attributes:
        num_answers: people who answered it.
        agreement: mean share of its pairs that they ordered like the known ranks.
        num_below: people who got fewer than half of its pairs right.
        usual: [K] the order that those who answered it agree on; None if nobody did, or their answers cancel out.
    """

    item: Item
    num_answers: int
    agreement: float | None
    num_below: int
    usual: tuple[int, ...] | None

    @property
    def is_suspect(self) -> bool:
        """Whether most people say something else than the known ranks, which are then probably wrong."""
        return self.num_answers >= 2 and self.num_below > self.num_answers / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonResult:
    """How far somebody is with a test; ``result`` once they have answered all of it."""

    user: User
    num_answered: int
    result: Result | None


def candidates(session: Session, *, batch_id: str | None = None, everything: bool = False) -> list[Candidate]:
    """Judged items of rankings and pairs, the surest first: settled by a reviewer, then by agreement.

    Args:
        everything: also items without an order that people agree on; somebody then enters the ranks.
    """
    where: list[ColumnElement[bool]] = [
        Batch.kind.in_(("ranking", "pair")),
        ~Batch.is_screening,
        ~judgements.compares_clips(),
    ]
    where += [] if batch_id is None else [Batch.id == batch_id]
    said = meetings.grouped(meetings.opinions(session, *where), lambda opinion: opinion.item_id)
    settled = _settled(session)
    items = session.scalars(select(Item).join(Batch, Batch.id == Item.batch_id).where(*where).order_by(Item.id))
    found = [_candidate(item, said.get(item.id, []), settled.get(item.id)) for item in items]
    usable = [each for each in found if len(each.item.response_ids) > 1 and (everything or each.ranks is not None)]
    return sorted(usable, key=lambda each: (not each.is_settled, -(each.agreement or 0.0), -each.num_labelers))


def agreed_ranks(said: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """[K] the order of several rankings: by how many responses each one beats less those that beat it (Borda).

    None if that prefers no response to another.
    """
    if not said:
        return None
    indices = range(len(said[0]))
    score = [sum((ranks[j] > ranks[i]) - (ranks[j] < ranks[i]) for ranks in said for j in indices) for i in indices]
    ranks = judgements.dense([-value for value in score])
    return ranks if max(ranks) > 1 else None


def make_test(session: Session, name: str, threshold: float, known: Mapping[str, Sequence[int]], *, by: User) -> Batch:
    """A test of copies of items, by their ids, with the ranks [K] that are right.

    Raises:
        NotFoundError: no such item.
        ConflictError: no items or too many, or ranks that do not fit.
    """
    if not known:
        raise ConflictError("choose at least one item")
    items = [_item(session, item_id) for item_id in known]
    sources = [session.get_one(Batch, item.batch_id) for item in items]
    settings = batches.Asked.of(sources[0]).settings if len({source.id for source in sources}) == 1 else {}
    batch = _new_test(session, name, threshold, [len(item.response_ids) for item in items], settings, by)
    for item, ranks in zip(items, known.values(), strict=True):
        batches.add_item(session, batch, item.prompt_id, item.response_ids, gold=judgements.dense(ranks))
    return batch


def import_test(
    session: Session, name: str, threshold: float, rankings: Iterable[Ranking], *, by: User
) -> tuple[Batch, Mapping[str, int]]:
    """A test of rankings from a file, whose ranks are right; also says how many were left out, and why.

    Raises:
        DataError: none of them can be used, or they are too many.
    """
    usable, left_out = _usable(rankings)
    if not usable:
        told = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DataError(f"no ranking in it can be used in a test ({told})")
    batch = _new_test(session, name, threshold, [len(ranking.responses) for ranking in usable], {}, by)
    for ranking in usable:
        batches.add_prompts(session, [ranking.prompt], source=name)
        rows = [batches.add_response(session, ranking.prompt.id, response) for response in ranking.responses]
        ids = [row.id for row in rows]
        batches.add_item(session, batch, ranking.prompt.id, ids, gold=judgements.dense(ranking.ranks))
    return batch, left_out


def tests(session: Session) -> Sequence[Batch]:
    """All tests, the newest first."""
    return session.scalars(select(Batch).where(Batch.is_screening).order_by(Batch.created_at.desc())).all()


def test_of(session: Session, batch_id: str) -> Batch:
    """A test by its id.

    Raises:
        NotFoundError: there is no such test.
    """
    batch = session.get(Batch, batch_id)
    if batch is None or not batch.is_screening:
        raise NotFoundError("no such screening test")
    return batch


def item_results(session: Session, batch: Batch) -> list[ItemResult]:
    """Each item of a test, in their order."""
    said = meetings.grouped(_answers(session, batch), lambda opinion: opinion.item_id)
    return [_item_result(item, said.get(item.id, [])) for item in _items(session, batch)]


def person_results(session: Session, batch: Batch) -> list[PersonResult]:
    """Everyone who has answered at least one item, by name."""
    said = meetings.grouped(_answers(session, batch), lambda opinion: opinion.user_id)
    users = session.scalars(select(User).where(User.id.in_(said)).order_by(User.name_key)).all()
    return [
        PersonResult(user=user, num_answered=len(said[user.id]), result=admission.result_of(session, user, batch))
        for user in users
    ]


def correct(session: Session, item_id: str, ranks: Sequence[int], *, by: User) -> Item:
    """Other known ranks for an item of a test.

    Raises:
        NotFoundError: it is no item of a test.
        ConflictError: ranks that do not fit.
    """
    item = session.get(Item, item_id)
    if item is None or not session.get_one(Batch, item.batch_id).is_screening:
        raise NotFoundError("no such item of a screening test")
    gold = judgements.dense(ranks)
    if len(gold) != len(item.response_ids) or len(set(gold)) < 2:
        raise ConflictError(f"give the {len(item.response_ids)} responses ranks that prefer one to another")
    people.record(session, by.id, "corrected a known answer", item=item.id, old=item.gold, new=list(gold))
    item.gold = list(gold)
    session.flush()
    return item


def change_test(
    session: Session, batch: Batch, *, threshold: float | None = None, is_open: bool | None = None, by: User
) -> None:
    """Another share of agreement that passes, for those who finish from now on; or end the test, or open it again."""
    state = batch.state if is_open is None else "open" if is_open else "closed"
    wanted = {"state": state, "threshold": batch.threshold if threshold is None else threshold}
    for name, value in wanted.items():
        before = getattr(batch, name)
        if value != before:
            setattr(batch, name, value)
            people.record(session, by.id, "changed a test", batch=batch.id, what=name, old=before, new=value)
    session.flush()


def decide_again(session: Session, batch: Batch, *, by: User) -> int:
    """Pass or fail everyone who has finished the test by what is right now; returns for how many that changed."""
    changed = 0
    for each in person_results(session, batch):
        if each.result is None or each.user.role != "labeler":
            continue
        outcome = "passed" if each.result.passed else "failed"
        if each.user.screening != outcome:
            people.record(session, by.id, "screening decided again", user=each.user.name, new=outcome)
            each.user.screening, changed = outcome, changed + 1
    session.flush()
    return changed


def retake(session: Session, user: User, *, by: User, now: float | None = None) -> None:
    """Take back somebody's answers to all open tests, and their outcome: the tests are before them again."""
    now = time.time() if now is None else now
    person = session.scalars(select(User).where(User.id == user.id).with_for_update(key_share=True)).one()
    of_tests = select(Item.id).join(Batch, Batch.id == Item.batch_id).where(Batch.is_screening, Batch.state == "open")
    tasks = session.scalars(select(Task).where(Task.user_id == person.id, Task.item_id.in_(of_tests))).all()
    for task in tasks:
        line = judgements.current_of_task(session, task)
        if line is not None:
            judgements.append(session, "withdrawal", {}, by, like=line, supersedes=line, now=now)
        if task.state in ("leased", "submitted"):
            queue.give_place(session, task.item_id)
        task.state, task.draft, task.ended_at, task.is_surplus = "released", None, None, False
    person.screening = None
    people.record(session, by.id, "screening starts again", now=now, user=person.name)
    session.flush()


def _candidate(item: Item, said: Sequence[Opinion], settlement: tuple[int, ...] | None) -> Candidate:
    several = len(said) > 1
    agreed = agreed_ranks([opinion.ranks for opinion in said]) if several else None
    return Candidate(
        item=item,
        ranks=settlement or agreed,
        num_labelers=len(said),
        agreement=meetings.share(meetings.meetings(said)) if several else None,
        is_settled=settlement is not None,
    )


def _settled(session: Session) -> dict[str, tuple[int, ...]]:
    """[K] ranks that a reviewer gave an item, where their judgement still stands."""
    lines = judgements.current().join(Review, Review.judgement_id == Judgement.id)
    found = session.execute(lines.with_only_columns(Judgement.item_id, Judgement.record["ranks"]))
    return {item_id: tuple(ranks) for item_id, ranks in found if item_id is not None and len(set(ranks)) > 1}


def _item(session: Session, item_id: str) -> Item:
    item = session.get(Item, item_id)
    if item is None or session.get_one(Batch, item.batch_id).kind not in ("ranking", "pair"):
        raise NotFoundError("no such item")
    return item


def _new_test(
    session: Session, name: str, threshold: float, counts: Sequence[int], settings: dict[str, object], by: User
) -> Batch:
    if len(counts) > MAX_ITEMS:
        raise ConflictError(f"a test has at most {MAX_ITEMS} items")
    kind = "pair" if set(counts) == {2} else "ranking"
    plan = BatchPlan(name=name, kind=kind, is_screening=True, threshold=threshold, settings=settings)
    batch = batches.create_batch(session, plan, by=by)
    people.record(session, by.id, "made a screening test", batch=batch.id, items=len(counts))
    return batch


def _usable(rankings: Iterable[Ranking]) -> tuple[list[Ranking], Counter[str]]:
    usable: dict[tuple[str, ...], Ranking] = {}
    left_out: Counter[str] = Counter()
    for ranking in rankings:
        asked = (ranking.prompt.id, *sorted(response.text for response in ranking.responses))
        reason = _reason(ranking)
        if reason is None and asked in usable:
            reason = "another ranking of the same responses (the first counts)"
        if reason is not None:
            left_out[reason] += 1
        elif len(usable) == MAX_ITEMS:
            raise DataError(f"a test has at most {MAX_ITEMS} items: choose some of these")
        else:
            usable[asked] = ranking
    return list(usable.values()), left_out


def _reason(ranking: Ranking) -> str | None:
    """Why a ranking cannot be asked; None if it can."""
    if len(ranking.responses) < 2:
        return "a single response"
    if len(ranking.responses) > 9:
        return "more than nine responses"
    return "all responses tied" if len(set(ranking.ranks)) < 2 else None


def _items(session: Session, batch: Batch) -> Sequence[Item]:
    return session.scalars(select(Item).where(Item.batch_id == batch.id).order_by(Item.position)).all()


def _answers(session: Session, batch: Batch) -> list[Opinion]:
    """What people said of a test's items."""
    columns = (Judgement.number, Judgement.user_id, Item.id, Item.prompt_id, Judgement.created_at)
    lines = judgements.current().join(Item, Item.id == Judgement.item_id)
    lines = lines.where(Item.batch_id == batch.id, Judgement.kind == "ranking", Judgement.task_id.is_not(None))
    found = session.execute(lines.with_only_columns(*columns, Judgement.record["ranks"]))
    return [
        Opinion(number=n, user_id=user, item_id=item, prompt_id=prompt, batch_id=batch.id, at=at, ranks=tuple(ranks))
        for n, user, item, prompt, at, ranks in found
    ]


def _item_result(item: Item, said: Sequence[Opinion]) -> ItemResult:
    shares = [admission.mark(item.id, item.gold or [], opinion.ranks).agreement for opinion in said]
    return ItemResult(
        item=item,
        num_answers=len(shares),
        agreement=sum(shares) / len(shares) if shares else None,
        num_below=sum(share < 0.5 for share in shares),
        usual=agreed_ranks([opinion.ranks for opinion in said]),
    )
