"""Screening tests: making one, seeing how people and items did, correcting known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.feedback.labelers import gold
from palate.feedback.labelers.gold import DEFAULT_THRESHOLD, ItemResult, PersonResult
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Item, User
from palate.feedback.tasks import importing, judgements
from palate.records import Prompt, Ranking
from palate.studio.web.access import RESEARCHERS, Db, Home, Person, allow
from palate.studio.web.figures import share
from palate.studio.web.rendering import go_to, page
from palate.studio.web.uploads import MOST_BYTES, Received, checked, form_of, received

router = APIRouter()

MOST_CANDIDATES = 60

Name = Annotated[str, Field(min_length=1, max_length=120)]
Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ranks = Annotated[list[Annotated[int, Field(ge=1, le=50)]], Field(min_length=1, max_length=50)]


class In(BaseModel):
    """A body that is sent to us: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownIn(In):
    """An item and the ranks of its responses, in the item's order; 1 is best."""

    item_id: Annotated[str, Field(max_length=100)]
    ranks: Ranks


class TestIn(In):
    """A test made of items that exist."""

    name: Name
    threshold: Threshold = DEFAULT_THRESHOLD
    items: Annotated[list[KnownIn], Field(min_length=1, max_length=gold.MAX_ITEMS)]


class FileIn(In):
    """A test made of a file."""

    name: Name
    threshold: Threshold = DEFAULT_THRESHOLD


class PercentIn(In):
    """The same, as a page asks for it."""

    name: Name
    threshold: Annotated[int, Field(ge=0, le=100)] = round(100 * DEFAULT_THRESHOLD)


class ChangeIn(In):
    """What is to be different about a test."""

    threshold: Threshold | None = None
    is_open: bool | None = None


class RanksIn(In):
    """Other known ranks."""

    ranks: Ranks


class TestOut(BaseModel):
    """A screening test."""

    id: str
    name: str
    kind: str
    is_open: bool
    threshold: float
    num_items: int
    num_finished: int
    num_passed: int
    created_at: float


class ImportedOut(TestOut):
    """A test out of a file; ``left_out`` counts the rankings that could not be used, by reason."""

    left_out: dict[str, int]


class ItemResultOut(BaseModel):
    """How people did on one item; ``usual_ranks`` is the order that they agree on."""

    id: str
    prompt: str
    known_ranks: list[int]
    usual_ranks: list[int] | None
    num_answers: int
    agreement: float | None
    is_suspect: bool


class PersonResultOut(BaseModel):
    """How far a person is; ``agreement`` and ``passed`` once they have answered everything."""

    id: str
    name: str
    num_answered: int
    agreement: float | None
    reaches_threshold: bool | None
    screening: str | None


class TestDetailOut(TestOut):
    """A test with its results."""

    items: list[ItemResultOut]
    people: list[PersonResultOut]


class CandidateOut(BaseModel):
    """An item that could be in a test, with the ranks that people agree on, if they do."""

    id: str
    prompt: str
    responses: list[str]
    ranks: list[int] | None
    num_labelers: int
    agreement: float | None
    is_settled: bool


class DecidedOut(BaseModel):
    """For how many people the outcome changed."""

    changed: int


@router.get("/screening", include_in_schema=False)
@allow(RESEARCHERS)
def tests_page(request: Request, store: Db) -> HTMLResponse:
    """All tests."""
    return page(request, "labeling/screening.html", tests=list_tests(store), threshold=DEFAULT_THRESHOLD, share=share)


@router.get("/screening/new", include_in_schema=False)
@allow(RESEARCHERS)
def new_page(request: Request, store: Db, batch: str = "", everything: bool = False) -> HTMLResponse:
    """Items to choose from."""
    with store.read() as session:
        kinds = Batch.kind.in_(("ranking", "pair"))
        batches = session.scalars(select(Batch).where(kinds, ~Batch.is_screening).order_by(Batch.created_at)).all()
        found = gold.candidates(session, batch_id=batch or None, everything=everything)
        shown = [(each, *_texts(session, each.item)) for each in found[:MOST_CANDIDATES]]
    return page(
        request, "labeling/screening_new.html", batches=batches, batch=batch, everything=everything, candidates=shown,
        num_found=len(found), threshold=DEFAULT_THRESHOLD, share=share,
    )  # fmt: skip


@router.get("/screening/{batch_id}", include_in_schema=False)
@allow(RESEARCHERS)
def show_page(request: Request, store: Db, person: Person, batch_id: str, left_out: int = 0) -> HTMLResponse:
    """One test with its results."""
    with store.read() as session:
        batch = gold.test_of(session, batch_id)
        items = [(each, *_texts(session, each.item)) for each in gold.item_results(session, batch)]
        people = gold.person_results(session, batch)
    return page(
        request, "labeling/screening_test.html", test=batch, items=items, people=people, left_out=left_out, share=share,
        is_admin=person.role == "admin",
    )  # fmt: skip


@router.post("/screening/import", include_in_schema=False, max_body_size=MOST_BYTES)
@allow(RESEARCHERS)
async def import_file(request: Request, home: Home, person: Person) -> Response:
    """A test out of a file of rankings."""
    async with received(request, home) as got:
        new = checked(PercentIn, got.fields)
        made = await run_in_threadpool(_import, home.store, person, got, new.name, new.threshold / 100)
    lost = sum(made.left_out.values())
    return go_to(request, f"/screening/{made.id}" + (f"?left_out={lost}" if lost else ""))


@router.post("/screening/{batch_id}/change", include_in_schema=False)
@allow(RESEARCHERS)
def change_form(
    request: Request,
    store: Db,
    person: Person,
    batch_id: str,
    threshold: Annotated[int | None, Form(ge=0, le=100)] = None,
    is_open: Annotated[bool | None, Form()] = None,
) -> Response:
    """Another threshold, or the end of the test."""
    part = None if threshold is None else threshold / 100
    change_test(store, person, batch_id, ChangeIn(threshold=part, is_open=is_open))
    return go_to(request, f"/screening/{batch_id}")


@router.post("/screening/{batch_id}/decide", include_in_schema=False)
@allow(RESEARCHERS)
def decide_form(request: Request, store: Db, person: Person, batch_id: str) -> Response:
    """Pass or fail everyone by the known answers and threshold of now."""
    decide_again(store, person, batch_id)
    return go_to(request, f"/screening/{batch_id}")


@router.post("/screening/items/{item_id}", include_in_schema=False)
@allow(RESEARCHERS)
def correct_form(
    request: Request, store: Db, person: Person, item_id: str, ranks: Annotated[Ranks, Form()]
) -> Response:
    """Other known ranks."""
    with store.write() as session:
        item = gold.correct(session, item_id, ranks, by=session.get_one(User, person.id))
    return go_to(request, f"/screening/{item.batch_id}")


@router.get("/api/screening", tags=["screening"], summary="All screening tests")
@allow(RESEARCHERS)
def list_tests(store: Db) -> list[TestOut]:
    """The newest first."""
    with store.read() as session:
        return [_test_out(session, batch) for batch in gold.tests(session)]


@router.post("/api/screening", tags=["screening"], summary="Make a test of items that exist", status_code=201)
@allow(RESEARCHERS)
def make_test(store: Db, person: Person, wish: TestIn) -> TestOut:
    """Copies of the items, with the given known ranks."""
    known: Mapping[str, Sequence[int]] = {each.item_id: each.ranks for each in wish.items}
    with store.write() as session:
        by = session.get_one(User, person.id)
        return _test_out(session, gold.make_test(session, wish.name, wish.threshold, known, by=by))


@router.post(
    "/api/screening/import", tags=["screening"], summary="Make a test out of a file of rankings", status_code=201,
    max_body_size=MOST_BYTES,
    openapi_extra=form_of(name={"type": "string"}, threshold={"type": "number", "minimum": 0, "maximum": 1}),
)  # fmt: skip
@allow(RESEARCHERS)
async def import_test(request: Request, home: Home, person: Person) -> ImportedOut:
    """In any format that `palate data import` reads; their ranks are right."""
    async with received(request, home) as got:
        new = checked(FileIn, got.fields)
        return await run_in_threadpool(_import, home.store, person, got, new.name, new.threshold)


@router.get("/api/screening/candidates", tags=["screening"], summary="Items that could be in a test")
@allow(RESEARCHERS)
def list_candidates(store: Db, batch: str = "", everything: bool = False) -> list[CandidateOut]:
    """The surest first; ``everything`` adds those without an order that people agree on."""
    with store.read() as session:
        found = gold.candidates(session, batch_id=batch or None, everything=everything)[: gold.MAX_ITEMS]
        return [_candidate_out(session, each) for each in found]


@router.get("/api/screening/{batch_id}", tags=["screening"], summary="A test with its results")
@allow(RESEARCHERS)
def read_test(store: Db, batch_id: str) -> TestDetailOut:
    """By item and by person."""
    with store.read() as session:
        batch = gold.test_of(session, batch_id)
        return TestDetailOut(
            **_test_out(session, batch).model_dump(),
            items=[_item_out(session, each) for each in gold.item_results(session, batch)],
            people=[_person_out(each) for each in gold.person_results(session, batch)],
        )


@router.patch("/api/screening/{batch_id}", tags=["screening"], summary="Change a test's threshold, or end it")
@allow(RESEARCHERS)
def change_test(store: Db, person: Person, batch_id: str, change: ChangeIn) -> TestOut:
    """A new threshold holds for those who finish from now on."""
    with store.write() as session:
        batch, by = gold.test_of(session, batch_id), session.get_one(User, person.id)
        gold.change_test(session, batch, threshold=change.threshold, is_open=change.is_open, by=by)
        return _test_out(session, batch)


@router.post("/api/screening/{batch_id}/decide", tags=["screening"], summary="Pass or fail everyone once more")
@allow(RESEARCHERS)
def decide_again(store: Db, person: Person, batch_id: str) -> DecidedOut:
    """By the known answers and the threshold of now."""
    with store.write() as session:
        batch = gold.test_of(session, batch_id)
        return DecidedOut(changed=gold.decide_again(session, batch, by=session.get_one(User, person.id)))


@router.put("/api/screening/items/{item_id}", tags=["screening"], summary="Correct the known ranks of an item")
@allow(RESEARCHERS)
def correct(store: Db, person: Person, item_id: str, known: RanksIn) -> TestDetailOut:
    """Results follow at once; who has passed stays as it was decided."""
    with store.write() as session:
        item = gold.correct(session, item_id, known.ranks, by=session.get_one(User, person.id))
    return read_test(store, item.batch_id)


def _import(store: Store, person: User, got: Received, name: str, threshold: float) -> ImportedOut:
    rankings = _read(got)
    with store.write() as session:
        by = session.get_one(User, person.id)
        batch, left_out = gold.import_test(session, name, threshold, rankings, by=by)
        return ImportedOut(**_test_out(session, batch).model_dump(), left_out=dict(left_out))


def _read(got: Received) -> list[Ranking]:
    """The rankings of an upload, through Palate's own reader; it stops at the first malformed row."""
    try:
        read = iterate(got.path, Ranking, rejections=Rejections(), strict=True, **got.how.model_dump())
        return [item for _, item in read if isinstance(item, Ranking)]
    except DataError as error:
        raise DataError(importing.briefly(str(error), got.path)) from None


def _texts(session: Session, item: Item) -> tuple[Prompt, list[str]]:
    responses = judgements.responses_of(session, item)
    return judgements.prompt_of(session, item), [response.text for response in responses]


def _test_out(session: Session, batch: Batch) -> TestOut:
    results = [each.result for each in gold.person_results(session, batch) if each.result is not None]
    return TestOut(
        id=batch.id,
        name=batch.name,
        kind=batch.kind,
        is_open=batch.state == "open",
        threshold=batch.threshold or 0.0,
        num_items=len(gold.item_results(session, batch)),
        num_finished=len(results),
        num_passed=sum(result.passed for result in results),
        created_at=batch.created_at,
    )


def _item_out(session: Session, each: ItemResult) -> ItemResultOut:
    return ItemResultOut(
        id=each.item.id,
        prompt=judgements.prompt_of(session, each.item).text[:300],
        known_ranks=each.item.gold or [],
        usual_ranks=None if each.usual is None else list(each.usual),
        num_answers=each.num_answers,
        agreement=each.agreement,
        is_suspect=each.is_suspect,
    )


def _person_out(each: PersonResult) -> PersonResultOut:
    return PersonResultOut(
        id=each.user.id,
        name=each.user.name,
        num_answered=each.num_answered,
        agreement=each.result.agreement if each.result else None,
        reaches_threshold=each.result.passed if each.result else None,
        screening=each.user.screening,
    )


def _candidate_out(session: Session, each: gold.Candidate) -> CandidateOut:
    prompt, responses = _texts(session, each.item)
    return CandidateOut(
        id=each.item.id,
        prompt=prompt.text[:300],
        responses=responses,
        ranks=None if each.ranks is None else list(each.ranks),
        num_labelers=each.num_labelers,
        agreement=each.agreement,
        is_settled=each.is_settled,
    )
