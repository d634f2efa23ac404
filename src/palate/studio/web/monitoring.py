"""What the app does, for Prometheus: ``/metrics``, for a researcher's or an admin's token.

    scrape_configs:
      - job_name: palate
        authorization: { credentials_file: /etc/prometheus/palate-token }
        static_configs: [{ targets: ["127.0.0.1:8000"] }]

Gauges and counts of people's work are read from the database when they are asked for, so it does not matter which of
several processes is asked. Requests are counted by each process; where there are several they add them up in files that
they share (`supervisor` says where).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import palate
from palate.feedback.store.database import Store
from palate.feedback.store.tables import ChatMessage, Item, Job, Judgement, Login, Model, Task, User
from palate.studio.web.access import RESEARCHERS, Db, allow

router = APIRouter()

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder where several processes add up what they count; read by the library when it is imported."""

ACTIVE_SECONDS = 900.0

_own = CollectorRegistry()
_seconds = Histogram(
    "palate_http_request_seconds",
    "Seconds until a response began.",
    ("method", "route", "status"),
    registry=_own,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class Measured:
    """Counts every request of an app and the seconds until its response began, by method, route and status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")  # its template: ids would make a series each
                _seconds.labels(_known(scope["method"]), route, message["status"]).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, noting)


@router.get("/metrics", include_in_schema=False)
@allow(RESEARCHERS)
def metrics(store: Db) -> Response:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Work(store))
    if os.environ.get(SHARED):
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return _text(generate_latest(registry))
    return _text(generate_latest(registry) + generate_latest(_own))


class Work(Collector):
    """What people and models have done, by the database."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def collect(self) -> Iterator[Metric]:
        """All of it at one moment."""
        with self.store.read() as session:
            version = GaugeMetricFamily("palate_version", "The version of Palate.", labels=["version"])
            version.add_metric([palate.__version__], 1)
            yield version
            yield _counted(session, "palate_people", "People by role.", User.role, "role")
            yield _counted(session, "palate_judgements", "Judgements by kind.", Judgement.kind, "kind", grows=True)
            yield _counted(session, "palate_tasks", "Tasks by state.", Task.state, "state")
            yield _counted(session, "palate_jobs", "Jobs by state.", Job.state, "state")
            active = select(func.count(func.distinct(Login.user_id))).where(
                Login.seen_at > time.time() - ACTIVE_SECONDS
            )
            for name, help, number in (
                ("palate_active_people", "People seen within fifteen minutes.", session.scalar(active)),
                (
                    "palate_open_places",
                    "Judgements that are still wanted, as far as places are counted.",
                    session.scalar(select(func.coalesce(func.sum(Item.open_places), 0))),
                ),
                (
                    "palate_answers_being_written",
                    "Answers of the chat that are being written.",
                    session.scalar(select(func.count()).where(ChatMessage.state == "streaming")),
                ),
                ("palate_models", "Models of the workspace.", session.scalar(select(func.count(Model.id)))),
            ):
                yield GaugeMetricFamily(name, help, value=float(number or 0))


def _counted(
    session: Session, name: str, help: str, column: InstrumentedAttribute[str], label: str, *, grows: bool = False
) -> Metric:
    family = (CounterMetricFamily if grows else GaugeMetricFamily)(name, help, labels=[label])
    for value, number in session.execute(select(column, func.count()).group_by(column).order_by(column)):
        family.add_metric([value], number)
    return family


def _known(method: str) -> str:
    """Anybody may invent methods; each would make a series."""
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def _text(metrics: bytes) -> Response:
    return Response(metrics, media_type="text/plain; version=0.0.4; charset=utf-8")
