"""The whole loop on one page that can hang on a wall: collecting, agreement, coverage, training, and what came of it.

The page refreshes its panels every ten seconds. Each panel says what to do where there is nothing to show yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.chat import lots
from palate.feedback.chat.lots import Lots
from palate.feedback.statistics import measures
from palate.feedback.statistics.measures import Memory
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Job, Model
from palate.feedback.tasks import arena, collecting, meetings
from palate.feedback.tasks.collecting import HOUR, Coverage, Throughput
from palate.feedback.tasks.meetings import DAY, Period
from palate.intervals import Estimate
from palate.studio.training import jobs, progress
from palate.studio.training.runs import BADGES
from palate.studio.web import charts
from palate.studio.web.access import RESEARCHERS, Db, Home, allow
from palate.studio.web.charts import Bar, Series
from palate.studio.web.figures import EstimateOut, day_label, points, share
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

RL = ("ppo", "reinforce")
LEARNING = ("objective/score", "objective/kl", "tokens/response_length", "policy/entropy")
MOST_BATCHES, MOST_RUNS, MOST_TEXTS, MOST_REPORTS = 8, 6, 4, 60
WIDE = (560, 240)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """How far people agree, and the same over time."""

    overall: Estimate
    periods: Sequence[Period]


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """A model against another, as a report of the workspace has it; ``texts`` are rows of prompt, before, after."""

    model: str
    baseline: str
    judge: str
    rate: Estimate
    at: float
    texts: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """A run with its curves; those of the newest policy are drawn large."""

    job: Job
    state: str
    step: int
    total: int | None
    pictures: Sequence[Markup]
    texts: Sequence[Mapping[str, str]] = ()


class CoverageOut(BaseModel):
    """A batch: ``items["n"]`` of its items have n judgements; complete ones have as many as the overlap."""

    batch_id: str
    name: str
    overlap: int
    items: dict[int, int]
    complete: int


class WonOut(BaseModel):
    """A win rate with its interval."""

    model: str
    baseline: str
    judge: str
    win_rate: EstimateOut


class LotsOut(BaseModel):
    """Rates of thumbs up in the chat: of answers that a reward chose and of those taken at random."""

    chosen: EstimateOut
    random: EstimateOut
    difference: EstimateOut
    num_chosen: int
    num_random: int
    conversations: int


class DashboardOut(BaseModel):
    """The figures of the dashboard; ``over_time`` counts judgements by the start of each stretch, since 1970."""

    judgements: int
    last_day: int
    people: int
    over_time: dict[int, int]
    agreement: EstimateOut
    coverage: list[CoverageOut]
    win_rates: list[WonOut]
    best_of_n: LotsOut


@router.get("/dashboard", include_in_schema=False)
@allow(RESEARCHERS)
def dashboard_page(request: Request, store: Db, home: Home, projector: str | None = None) -> HTMLResponse:
    """The page; with `?projector` nothing but the panels, larger."""
    return page(request, "overview/dashboard.html", projector=projector is not None, **_panels(request, store, home))


@router.get("/dashboard/panels", include_in_schema=False)
@allow(RESEARCHERS)
def panels(request: Request, store: Db, home: Home) -> HTMLResponse:
    """What changes, for the page's script."""
    return page(request, "overview/dashboard_panels.html", **_panels(request, store, home))


@router.get("/api/dashboard", tags=["dashboard"], summary="The figures of the dashboard")
@allow(RESEARCHERS)
def figures(request: Request, store: Db, home: Home) -> DashboardOut:
    """Collecting, agreement, coverage and win rates; curves are under runs."""
    with store.read() as session:
        said, covered = collecting.throughput(session), collecting.coverage(session)
        won = _won(request, session, home)
    fallen = _lots(request, store)
    return DashboardOut(
        judgements=said.total,
        last_day=said.last_day,
        people=said.people,
        over_time={int(number * said.seconds): count for number, count in said.counts.items()},
        agreement=EstimateOut.of(_agreed(request, store).overall),
        coverage=[
            CoverageOut(
                batch_id=each.batch.id,
                name=each.batch.name,
                overlap=each.batch.overlap,
                items=dict(each.items),
                complete=each.num_complete,
            )
            for each in covered
        ],
        win_rates=[
            WonOut(model=each.model, baseline=each.baseline, judge=each.judge, win_rate=EstimateOut.of(each.rate))
            for each in won
        ],
        best_of_n=LotsOut(
            chosen=EstimateOut.of(fallen.chosen),
            random=EstimateOut.of(fallen.random),
            difference=EstimateOut.of(fallen.difference),
            num_chosen=fallen.num_chosen,
            num_random=fallen.num_random,
            conversations=fallen.conversations,
        ),
    )


def _panels(request: Request, store: Store, home: Workspace) -> dict[str, Any]:
    with store.read() as session:
        said, covered = collecting.throughput(session), collecting.coverage(session)
        won = _won(request, session, home)
        ran = session.scalars(select(Job).order_by(Job.created_at.desc()).limit(50)).all()
    agreed = _agreed(request, store)
    newest = next((job for job in ran if job.stage in RL and job.started_at), None)
    large = _learning(home, newest, size=WIDE) if newest else None
    return {
        "said": said,
        "agreed": agreed,
        "covered": covered,
        "complete": sum(each.num_complete for each in covered),
        "num_items": sum(each.num_items for each in covered),
        "won": won,
        "lots": _lots(request, store),
        "best_of": home.settings.best_of,
        "large": large,
        "badges": BADGES,
        "others": _with_curves(home, [job for job in ran if job is not newest]),
        "compared": next((each for each in won if each.texts), None),
        "most_texts": MOST_TEXTS,
        "pictures": {
            "throughput": _throughput(said),
            "agreement": _agreement(agreed),
            "coverage": _coverage(covered[:MOST_BATCHES]),
            "won": _win_rates(won),
        },
        "share": share,
        "points": points,
        "now": time.strftime("%H:%M", time.gmtime()),
    }


def _agreed(request: Request, store: Store) -> Agreed:
    """From memory, unless the log has grown."""
    memory: Memory[Agreed] = _memory(request)
    with store.read() as session:
        number = measures.last_number(session)

    def work() -> Agreed:
        with store.read() as session:
            met = meetings.meetings(meetings.opinions(session))
        return Agreed(overall=meetings.estimate(met), periods=meetings.over_time(met))

    return memory.get("agreed", number, work)


def _lots(request: Request, store: Store) -> Lots:
    """From memory, unless the log has grown."""
    memory: Memory[Lots] = _memory(request)
    with store.read() as session:
        number = measures.last_number(session)

    def work() -> Lots:
        with store.read() as session:
            return lots.compared(session)

    return memory.get("lots", number, work)


def _memory(request: Request) -> Memory[Any]:
    if not hasattr(request.app.state, "dashboard"):
        request.app.state.dashboard = Memory()
    memory: Memory[Any] = request.app.state.dashboard
    return memory


def _throughput(said: Throughput) -> Markup:
    hours = said.seconds == HOUR
    line = Series(name="judgements", x=list(said.counts), y=[float(count) for count in said.counts.values()])
    return charts.lines(
        f"Judgements {'an hour' if hours else 'a day'}", [line], x_label="hour (UTC)" if hours else "day",
        x_format=_hour_label if hours else day_label, y_low=0, y_within=charts.COUNT, size=WIDE,
    )  # fmt: skip


def _agreement(agreed: Agreed) -> Markup:
    found = [period.agreement for period in agreed.periods]
    line = Series(
        name="agreement",
        x=[period.start // DAY for period in agreed.periods],
        y=[each.value for each in found],
        low=[each.low for each in found],
        high=[each.high for each in found],
    )
    return charts.lines(
        "Agreement, day by day", [line], x_label="day", x_format=day_label, y_format=share, y_low=0.5, y_high=1,
        y_within=charts.SHARE, reference=agreed.overall.value, size=WIDE,
    )  # fmt: skip


def _coverage(covered: Sequence[Coverage]) -> Markup:
    """A row for each batch: the share of its prompts with none, one, two, ... judgements."""
    most = min(max((max(each.items) for each in covered), default=0), 5)
    columns = [str(number) for number in range(most)] + [f"{most}" if most < 5 else "5 or more"]
    values = [
        [
            sum(count for done, count in each.items.items() if min(done, most) == number) / each.num_items
            for number in range(most + 1)
        ]
        for each in covered
    ]
    return charts.matrix("Prompts by number of judgements", [each.batch.name for each in covered], columns, values)


def _win_rates(won: Sequence[Won]) -> Markup:
    bars = [
        Bar(label=each.model, value=each.rate.value, low=each.rate.low, high=each.rate.high, note=_against(each))
        for each in won
    ]
    return charts.bars("Win rate over the baseline", bars, high=1, reference=0.5, format=share, within=charts.SHARE)


def _against(each: Won) -> str:
    return f"against {each.baseline}, {each.judge}"


def _with_curves(home: Workspace, ran: Sequence[Job]) -> list[Learning]:
    """The newest of those that have logged something; sampling and evaluation do not."""
    drawn = (_learning(home, job) for job in ran if job.started_at)
    return list(islice((each for each in drawn if each.pictures), MOST_RUNS))


def _learning(home: Workspace, job: Job, *, size: tuple[int, int] = (480, 240)) -> Learning:
    directory = jobs.directory_of(home, job)
    found = progress.progress_of(directory)
    chosen = [curve for curve in progress.CURVES if job.stage not in RL or curve.metrics[0] in LEARNING]
    drawn = [
        charts.lines(
            curve.title,
            [
                Series(name=name, x=[float(row["step"]) for row in found.rows], y=[row.get(name) for row in found.rows])
                for name in curve.metrics
                if any(name in row for row in found.rows)
            ],
            x_label="step", smooth=True, reference=curve.reference, y_format=share if curve.is_share else None,
            y_within=charts.SHARE if curve.is_share else charts.ANY, size=size,
        )
        for curve in chosen
        if any(curve.metrics[0] in row for row in found.rows)
    ]  # fmt: skip
    most = len(LEARNING) if job.stage in RL else 1
    return Learning(
        job=job,
        state=jobs.state_of(home, job),
        step=found.step,
        total=found.total,
        pictures=drawn[:most],
        texts=_first_and_last(directory),
    )


def _first_and_last(directory: Path) -> list[dict[str, str]]:
    """Prompts that a run answered both at its beginning and at its latest samples."""
    over_time = progress.read_samples(directory / "samples.jsonl", most=2)
    if len(over_time) < 2:
        return []
    (_, last), (_, first) = over_time
    before = {str(row.get("prompt")): str(row.get("response")) for row in first}
    return [
        {"prompt": prompt, "before": before[prompt], "after": str(row.get("response"))}
        for row in last
        if (prompt := str(row.get("prompt"))) in before
    ][:MOST_TEXTS]


def _won(request: Request, session: Session, home: Workspace) -> list[Won]:
    """Every comparison of two models, the newest first: closed arenas, jobs, and runs that were started by hand."""
    ran = {job.directory: job for job in session.scalars(select(Job))}
    names = dict(session.execute(select(Model.id, Model.name)).all())
    paths = sorted(home.runs.glob("*/report.json"), key=lambda path: -path.stat().st_mtime)[:MOST_REPORTS]
    read = ((path, progress.read_object(path)) for path in paths)
    found = [
        _of_report(path, report, ran.get(f"runs/{path.parent.name}"), names)
        for path, report in read
        if isinstance(report.get("win_rate"), int | float)
    ]
    closed = [batch for batch in arena.arenas(session) if arena.closed_at(batch) is not None]
    found += [each for batch in closed if (each := _of_arena(request, session, batch)) is not None]
    return sorted(found, key=lambda each: -each.at)


def _of_arena(request: Request, session: Session, batch: Batch) -> Won | None:
    """What people said; None where nobody voted. It is closed, so it stays as it is."""
    tally: arena.Tally = _memory(request).get(("arena", batch.id), 0, lambda: arena.result(session, batch))
    if tally.win is None:
        return None
    first, second = arena.models_of(session, batch)
    rate = Estimate(tally.win.rate, tally.win.low, tally.win.high)
    at = arena.closed_at(batch) or 0.0
    return Won(model=first.name, baseline=second.name, judge="judged by people", rate=rate, at=at)


def _of_report(path: Path, report: Mapping[str, Any], job: Job | None, names: Mapping[str, str]) -> Won:
    model, _, baseline = str(report.get("title", path.parent.name)).partition(" against ")
    then = job.then if job else {}
    return Won(
        model=names.get(then.get("model_id", ""), model.rsplit("/", 1)[-1]),
        baseline=names.get(then.get("baseline_id", ""), baseline.rsplit("/", 1)[-1] or "its beginning"),
        judge="judged by a reward model" if job else "judged as the report says",
        rate=Estimate(report["win_rate"], report.get("win_rate_low"), report.get("win_rate_high")),
        at=path.stat().st_mtime,
        texts=[
            {key: str(row.get(key, "")) for key in ("prompt", "before", "after")} for row in report.get("texts", [])
        ],
    )


def _hour_label(number: float) -> str:
    at = time.gmtime(number * HOUR)
    return f"{at.tm_hour:02}:{at.tm_min:02}"
