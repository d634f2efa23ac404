"""How far labelers agree, and what weight each of them should have in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.labelers import reviewing, roster
from palate.feedback.statistics import measures
from palate.feedback.statistics.measures import LEFT_OUT, Memory, Numbers, View, Weights
from palate.feedback.store.tables import Batch, Round, User
from palate.feedback.tasks.meetings import DAY, Contested, Period
from palate.intervals import Estimate
from palate.studio.web import charts
from palate.studio.web.access import RESEARCHERS, REVIEWERS, Db, Person, allow
from palate.studio.web.charts import Bar, Series
from palate.studio.web.figures import EstimateOut, coefficient, day_label, interval, percent, share
from palate.studio.web.rendering import go_to, page

router = APIRouter()

MOST_NAMES = 24
"""In a picture; a table has room for all."""

WORST = 20
KINDS = {"ranking": "rankings", "pair": "pairs", "arena": "arena"}
EVERY = {0: "each day", 20: "every 20 meetings", 100: "every 100 meetings", 500: "every 500 meetings"}

Kind = Literal["", "ranking", "pair", "arena"]
Id = Annotated[str, Query(max_length=100)]
Number = Annotated[str, Query(pattern=r"^\d{0,9}$")]
Every = Annotated[int, Query(ge=0, le=100_000)]


class LabelerOut(BaseModel):
    """One labeler against all others."""

    name: str
    agreement: EstimateOut
    num_prompts: int
    num_comparisons: int
    tie_share: float


class BetweenOut(BaseModel):
    """Two labelers who met."""

    one: str
    other: str
    agreement: float


class PeriodOut(BaseModel):
    """A stretch of time (seconds since 1970), with how often two people met in it on an item."""

    start: float
    end: float
    num_meetings: int
    agreement: EstimateOut


class ItemOut(BaseModel):
    """An item that several people judged."""

    id: str
    prompt_id: str
    batch_id: str
    num_labelers: int
    disagreement: float


class NumbersOut(BaseModel):
    """How far labelers agree, and which judgements were not used for it; everything by prompt has a 95% interval."""

    last_number: int
    num_judgements: int
    num_alone: int
    num_people: int
    num_prompts: int
    num_comparisons: int
    left_out: dict[str, int]
    percent: EstimateOut
    cohen: EstimateOut
    fleiss: EstimateOut
    krippendorff: EstimateOut
    krippendorff_ratings: EstimateOut
    gwet_ac1: EstimateOut
    kendall_tau_b: EstimateOut
    first_wins: EstimateOut
    labelers: list[LabelerOut]
    between: list[BetweenOut]
    over_time: list[PeriodOut]
    items: list[ItemOut]


class WeightOut(BaseModel):
    """A labeler in the Bradley-Terry model, and the weight they have now."""

    id: str
    name: str
    num_comparisons: int
    skill: EstimateOut
    weight: float
    weight_now: float


class WeightsOut(BaseModel):
    """Majority and model."""

    last_number: int
    num_pairs: int
    num_same: int
    num_reversed: int
    num_undecided: int
    first_wins: EstimateOut
    labelers: list[WeightOut]


class ViewIn(BaseModel):
    """Which part of the log the weights are from; ``last_number`` is that of the weights that were seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[str, Field(max_length=100)] = ""
    round: Annotated[str, Field(pattern=r"^\d{0,9}$")] = ""
    kind: Kind = ""
    last_number: Annotated[int, Field(ge=0)]


class AppliedOut(BaseModel):
    """Weights by the ids of people."""

    weights: dict[str, float]


@router.get("/agreement", include_in_schema=False)
@allow(REVIEWERS)
def agreement_page(
    request: Request, store: Db, batch: Id = "", round: Number = "", kind: Kind = "", every: Every = 0
) -> HTMLResponse:
    """All numbers of a part of the log."""
    view = _view(batch, round, kind, every)
    numbers = _numbers(request, store, view)
    worst = numbers.items[:WORST]
    with store.read() as session:
        choices = _choices(session)
        reviewed = {each.id for each in choices["batches"] if each.kind in reviewing.REVIEWED_KINDS}
        texts = reviewing.prompt_texts(session, {item.prompt_id for item in worst})
    return page(
        request, "labeling/agreement.html",
        numbers=numbers, result=numbers.agreement, view=view, **choices, worst=worst,
        texts=texts, pictures=_pictures(numbers, view), left_out=LEFT_OUT, percent=percent, coefficient=coefficient,
        interval=interval, share=share, most_names=MOST_NAMES, headline=percent(_percent(numbers)), reviewed=reviewed,
    )  # fmt: skip


@router.get("/agreement/weights", include_in_schema=False)
@allow(REVIEWERS)
def weights_page(
    request: Request, store: Db, person: Person, batch: Id = "", round: Number = "", kind: Kind = ""
) -> HTMLResponse:
    """Majority against the model, and the weights that follow."""
    view = _view(batch, round, kind)
    numbers = _numbers(request, store, view)
    found = _weights(request, store, view) if numbers.agreement.labelers else None
    with store.read() as session:
        choices = _choices(session)
        shown = None if found is None else _weights_out(session, found)
    return page(
        request, "labeling/agreement_weights.html",
        numbers=numbers, weights=shown, model=found.model if found else None,
        view=view, **choices, left_out=LEFT_OUT, percent=percent, coefficient=coefficient, interval=interval,
        can_apply=person.role in RESEARCHERS,
    )  # fmt: skip


@router.post("/agreement/weights", include_in_schema=False)
@allow(RESEARCHERS)
def apply_form(
    request: Request,
    store: Db,
    person: Person,
    last_number: Annotated[int, Form(ge=0)],
    batch: Annotated[str, Form(max_length=100)] = "",
    round: Annotated[str, Form(pattern=r"^\d{0,9}$")] = "",
    kind: Annotated[Kind, Form()] = "",
) -> Response:
    """Use the weights in training."""
    apply_weights(request, store, person, ViewIn(batch=batch, round=round, kind=kind, last_number=last_number))
    return go_to(request, f"/agreement/weights?batch={batch}&round={round}&kind={kind}")


@router.post("/agreement/weights/equal", include_in_schema=False)
@allow(RESEARCHERS)
def equal_form(request: Request, store: Db, person: Person) -> Response:
    """Everyone counts the same again."""
    equal_weights(store, person)
    return go_to(request, "/agreement/weights")


@router.get("/api/agreement", tags=["agreement"], summary="How far labelers agree")
@allow(REVIEWERS)
def read_numbers(
    request: Request, store: Db, batch: Id = "", round: Number = "", kind: Kind = "", every: Every = 0
) -> NumbersOut:
    """Of everything, or of one batch, round or kind; ``every`` so many meetings make one point over time."""
    return _numbers_out(_numbers(request, store, _view(batch, round, kind, every)))


@router.get("/api/agreement/weights", tags=["agreement"], summary="Majority, model and the weights of labelers")
@allow(REVIEWERS)
def read_weights(request: Request, store: Db, batch: Id = "", round: Number = "", kind: Kind = "") -> WeightsOut:
    """A Bradley-Terry model with a skill for each labeler and position bias."""
    found = _weights(request, store, _view(batch, round, kind))
    with store.read() as session:
        return _weights_out(session, found)


@router.post("/api/agreement/weights", tags=["agreement"], summary="Use the weights in training")
@allow(RESEARCHERS)
def apply_weights(request: Request, store: Db, person: Person, wish: ViewIn) -> AppliedOut:
    """Of those who are in the view; others keep their weight. Weights that have changed meanwhile are refused."""
    found = _weights(request, store, _view(wish.batch, wish.round, wish.kind))
    if found.last_number != wish.last_number:
        raise ConflictError("there are new judgements, so the weights have changed: reload the page")
    weights = {found.user_ids[name]: weight for name, weight in found.model.labeler_weights.items()}
    source = f"batch={wish.batch}, round={wish.round}, kind={wish.kind}, judgements up to {wish.last_number}"
    with store.write() as session:
        roster.set_weights(session, weights, by=session.get_one(User, person.id), source=source)
    return AppliedOut(weights=weights)


@router.delete("/api/agreement/weights", tags=["agreement"], summary="Let everyone count the same")
@allow(RESEARCHERS)
def equal_weights(store: Db, person: Person) -> AppliedOut:
    """Every weight is 1 again."""
    with store.write() as session:
        weights = dict.fromkeys(session.scalars(select(User.id)), 1.0)
        roster.set_weights(session, weights, by=session.get_one(User, person.id), source="equal")
    return AppliedOut(weights=weights)


def _view(batch: str, round: str, kind: str, every: int = 0) -> View:
    number = int(round) if round else None
    return View(batch_id=batch or None, round_number=number, kind=kind or None, every=every)


def _numbers(request: Request, store: Db, view: View) -> Numbers:
    """From memory, unless the log has grown."""
    memory: Memory[Any] = _memory(request)
    with store.read() as session:
        number = measures.last_number(session)

    def work() -> Numbers:
        with store.read() as session:
            collected = measures.collect(session, view)
        return measures.measure(collected)

    numbers: Numbers = memory.get(("numbers", view), number, work)
    return numbers


def _weights(request: Request, store: Db, view: View) -> Weights:
    memory, view = _memory(request), replace(view, every=0)
    with store.read() as session:
        number = measures.last_number(session)

    def work() -> Weights:
        with store.read() as session:
            collected = measures.collect(session, view)
        return measures.weigh(collected)

    weights: Weights = memory.get(("weights", view), number, work)
    return weights


def _memory(request: Request) -> Memory[Any]:
    state = request.app.state
    if not hasattr(state, "measures"):
        state.measures = Memory()
    memory: Memory[Any] = state.measures
    return memory


def _choices(session: Session) -> dict[str, Any]:
    """What can be looked at by itself."""
    kinds = Batch.kind.in_(tuple(KINDS))
    return {
        "batches": session.scalars(select(Batch).where(kinds, ~Batch.is_screening).order_by(Batch.created_at)).all(),
        "rounds": session.scalars(select(Round).order_by(Round.number)).all(),
        "kinds": KINDS,
        "periods": EVERY,
    }


def _pictures(numbers: Numbers, view: View) -> dict[str, Markup]:
    result = numbers.agreement
    ranked = sorted(result.labelers, key=lambda labeler: -(labeler.agreement.value or 0.0))[:MOST_NAMES]
    met = [labeler for labeler in ranked if labeler.agreement.value is not None]
    names = [labeler.name for labeler in met]
    bars = [
        Bar(label=each.name, value=each.agreement.value, low=each.agreement.low, high=each.agreement.high)
        for each in met
    ]
    return {
        "labelers": charts.bars(
            "Agreement of each labeler with the others",
            bars,
            high=1,
            reference=result.percent,
            format=share,
            within=charts.SHARE,
        ),
        "between": charts.matrix("Agreement between labelers", names, names, result.matrix(names)),
        "over_time": _over_time(numbers.over_time, view, result.percent),
    }


def _over_time(periods: Sequence[Period], view: View, level: float | None) -> Markup:
    if view.every:
        x = [float((index + 1) * view.every) for index in range(len(periods))]
        label, shown = "meetings of two people on an item", None
    else:
        x, label, shown = [period.start // DAY for period in periods], "", day_label
    found = [period.agreement for period in periods]
    line = Series(
        name="agreement", x=x, y=[e.value for e in found], low=[e.low for e in found], high=[e.high for e in found]
    )
    return charts.lines(
        "Agreement over time", [line], x_label=label, x_format=shown, y_format=share, y_low=0.5, y_high=1,
        y_within=charts.SHARE, reference=level, size=(640, 240),
    )  # fmt: skip


def _numbers_out(numbers: Numbers) -> NumbersOut:
    result, of = numbers.agreement, EstimateOut.of
    return NumbersOut(
        **{name: getattr(numbers, name) for name in ("last_number", "num_judgements", "num_alone", "num_people")},
        num_prompts=result.num_prompts,
        num_comparisons=result.num_comparisons,
        left_out=dict(numbers.left_out),
        percent=of(_percent(numbers)),
        cohen=of(result.cohen),
        fleiss=of(result.fleiss),
        krippendorff=of(result.alpha),
        krippendorff_ratings=of(result.alpha_interval),
        gwet_ac1=of(result.ac1),
        kendall_tau_b=of(result.tau_b),
        first_wins=of(numbers.first_wins),
        labelers=[
            LabelerOut(
                name=each.name,
                agreement=of(each.agreement),
                num_prompts=each.num_prompts,
                num_comparisons=each.num_comparisons,
                tie_share=each.tie_share,
            )
            for each in result.labelers
        ],
        between=[BetweenOut(one=one, other=other, agreement=value) for (one, other), value in result.between.items()],
        over_time=[
            PeriodOut(start=p.start, end=p.end, num_meetings=p.num_meetings, agreement=of(p.agreement))
            for p in numbers.over_time
        ],
        items=[_item_out(item) for item in numbers.items],
    )


def _percent(numbers: Numbers) -> Estimate:
    return Estimate(numbers.agreement.percent, numbers.agreement.low, numbers.agreement.high)


def _item_out(item: Contested) -> ItemOut:
    return ItemOut(
        id=item.item_id,
        prompt_id=item.prompt_id,
        batch_id=item.batch_id,
        num_labelers=item.num_labelers,
        disagreement=item.disagreement,
    )


def _weights_out(session: Session, found: Weights) -> WeightsOut:
    now = dict(session.execute(select(User.id, User.weight)).all())
    return WeightsOut(
        last_number=found.last_number,
        num_pairs=found.num_pairs,
        num_same=found.num_same,
        num_reversed=found.num_reversed,
        num_undecided=found.num_undecided,
        first_wins=EstimateOut.of(found.first_wins),
        labelers=[
            WeightOut(
                id=found.user_ids[each.name],
                name=each.name,
                num_comparisons=each.num_comparisons,
                skill=EstimateOut.of(each.skill),
                weight=each.weight,
                weight_now=now[found.user_ids[each.name]],
            )
            for each in found.model.labelers
        ],
    )
