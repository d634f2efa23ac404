"""Many labelers at once, through real HTTP, and a server that is killed in the middle.

    python benchmarks/studio_load.py                                             # SQLite, 50 labelers, two minutes
    python benchmarks/studio_load.py --database postgresql+psycopg://USER@HOST/EMPTY
    python benchmarks/studio_load.py --processes 2 --database URL                # two web processes
    python benchmarks/studio_load.py --kill server                               # SIGKILL half-way, then a restart
    python benchmarks/studio_load.py --processes 2 --kill process --database URL # of one of the web processes
    python benchmarks/studio_load.py --kill database --database URL              # of PostgreSQL, as its owner or root

Each labeler claims a task, reads its page, saves a draft, thinks for four to twelve seconds (people take five times
as long) and hands in; a reply that was lost, or that said to come again, is asked for again with the same form.
Afterwards the database is read: every judgement that was acknowledged must be there once, and no item may have more
judgements than its overlap.
Prints figures as JSON; status 1 if anything was lost, double or refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import tomli_w
from sqlalchemy import func, select, text

from palate.feedback.store import people
from palate.feedback.store.tables import Item, Judgement, Task
from palate.feedback.tasks import batches
from palate.feedback.tasks.judgements import current
from palate.records import Candidates, Prompt, Response
from palate.studio.serve import create
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Workspace

OVERLAP = 3
K = 4


@dataclass(slots=True)
class Seen:
    """What the labelers met: acknowledged task ids, seconds for each kind of request, and what went wrong."""

    acknowledged: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"claim": [], "draft": [], "page": [], "submit": []}
    )
    errors: Counter[str] = field(default_factory=Counter)
    lost_connections: int = 0
    come_again: int = 0


@dataclass(frozen=True, slots=True)
class Badge:
    """A labeler's session."""

    token: str
    csrf: str


def prepare(directory: Path, database: str | None, *, labelers: int, items: int) -> tuple[Workspace, list[Badge]]:
    """A workspace with material for everybody, and everybody signed in."""
    create(directory)
    if database is not None:
        config = directory / "palate.toml"
        settings = tomllib.loads(config.read_text(encoding="utf-8")) | {"database": database}
        config.write_text(tomli_w.dumps(settings), encoding="utf-8")
    workspace = Workspace(directory)
    workspace.store.upgrade()
    with workspace.store.write() as session:
        admin = people.create_user(session, "Ada", "a long password", "admin")
        batch = batches.create_batch(session, batches.BatchPlan(name="Load", overlap=OVERLAP), by=admin)
        candidates = (
            Candidates(
                prompt=Prompt.from_text(f"Question {number}: what is worth knowing about it?"),
                responses=tuple(Response(text=f"Answer {number}-{place}. " * 8) for place in range(K)),
            )
            for number in range(items)
        )
        batches.add_candidates(session, batch, candidates)
        badges = []
        for number in range(labelers):
            user = people.create_user(session, f"labeler {number}", "a long password", "labeler")
            signed_in = people.open_session(session, user)
            badges.append(Badge(signed_in.token, signed_in.csrf))
    return workspace, badges


def start(directory: Path, port: int, processes: int) -> subprocess.Popen[bytes]:
    """A server, once it answers."""
    command = [sys.executable, "-m", "palate", "studio", "--workspace", str(directory), "--port", str(port)]
    server = subprocess.Popen([*command, "--processes", str(processes)], stdout=subprocess.DEVNULL)
    while True:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200:
                return server
        except httpx2.HTTPError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)


async def labeler(url: str, badge: Badge, seed: int, until: float, seen: Seen, think: tuple[float, float]) -> None:
    """One person at work."""
    luck = random.Random(seed)
    headers = {"X-CSRF-Token": badge.csrf, "Accept": "application/json", "Cookie": f"{COOKIE}={badge.token}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as client:

        async def ask(kind: str, method: str, path: str, body: Any = None) -> Any:
            while True:
                began = time.monotonic()
                try:
                    response = await client.request(method, path, json=body)
                except httpx2.HTTPError:
                    seen.lost_connections += 1
                    await asyncio.sleep(0.2)
                    continue
                if response.status_code == 503:
                    seen.come_again += 1
                    await asyncio.sleep(0.2)
                    continue
                seen.seconds[kind].append(time.monotonic() - began)
                if response.status_code != 200:
                    seen.errors[f"{kind} {response.status_code} {response.text[:80]}"] += 1
                return response

        await asyncio.sleep(luck.uniform(0, think[1]))
        while time.monotonic() < until:
            task = (await ask("claim", "POST", "/api/tasks/claim", {})).json().get("task")
            if task is None:
                seen.errors["nothing left to do"] += 1
                return
            await ask("page", "GET", f"/label/{task['id']}")
            ranks = [luck.randint(1, K) for _ in range(K)]
            await ask("draft", "PUT", f"/api/tasks/{task['id']}/draft", {"ranks": ranks})
            await asyncio.sleep(luck.uniform(*think))
            form = {"ranks": ranks, "seconds": 30.0, "confirmed": True}
            answer = (await ask("submit", "POST", f"/api/tasks/{task['id']}/submit", form)).json()
            if answer.get("stored"):
                seen.acknowledged.append(task["id"])


async def load(
    workspace: Workspace,
    port: int,
    badges: list[Badge],
    *,
    seconds: float,
    kill: str,
    think: tuple[float, float],
    processes: int,
) -> Seen:
    """Everybody at once; returns what they met."""
    seen, url = Seen(), f"http://127.0.0.1:{port}"
    server = await asyncio.to_thread(start, workspace.directory, port, processes)
    until = time.monotonic() + seconds
    everybody = [
        asyncio.create_task(labeler(url, badge, number, until, seen, think)) for number, badge in enumerate(badges)
    ]
    if kill:
        await asyncio.sleep(seconds / 2)
        os.kill(victim(kill, server, workspace), signal.SIGKILL)
        if kill == "server":
            server.wait()
            server = await asyncio.to_thread(start, workspace.directory, port, processes)
    await asyncio.gather(*everybody)
    server.terminate()
    server.wait()
    return seen


def victim(kill: str, server: subprocess.Popen[bytes], workspace: Workspace) -> int:
    """The process to kill. PostgreSQL ends all its connections and recovers when one of its processes is killed."""
    if kill == "database":
        with workspace.store.engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    if kill == "process":
        children = psutil.Process(server.pid).children()
        return next(child.pid for child in children if "palate.studio.serve" in child.cmdline())
    return server.pid


def check(workspace: Workspace, seen: Seen) -> list[str]:
    """What must not be, read from the database."""
    wrong = [f"{count} x {error}" for error, count in seen.errors.items()]
    with workspace.store.read() as session:
        kept = Counter(session.scalars(select(Judgement.task_id)).all())
        counted = {line.task_id for line in session.scalars(current())}
        lost = set(seen.acknowledged) - counted
        double = [task for task, count in kept.items() if count > 1]
        over = session.execute(
            select(Task.item_id, func.count())
            .where(Task.state.in_(("leased", "submitted")), Task.is_surplus.is_(False))
            .group_by(Task.item_id)
            .having(func.count() > OVERLAP)
        ).all()
        held = (
            select(func.count())
            .where(Task.item_id == Item.id, Task.state.in_(("leased", "submitted")), Task.is_surplus.is_(False))
            .correlate(Item)
            .scalar_subquery()
        )
        miscounted = session.scalars(select(Item.id).where(Item.open_places + held != OVERLAP)).all()
    for name, found in {"lost": lost, "double": double, "over the overlap": over, "miscounted": miscounted}.items():
        if found:
            wrong.append(f"{len(found)} {name}")
    return wrong


def run(
    directory: Path,
    *,
    database: str | None = None,
    labelers: int = 50,
    seconds: float = 120,
    kill: str = "",
    think: tuple[float, float] = (4.0, 12.0),
    processes: int = 1,
) -> dict[str, Any]:
    """Prepare, load, check: the figures."""
    items = int(labelers * seconds / sum(think) * 2 / OVERLAP * 1.5) + labelers
    workspace, badges = prepare(directory, database, labelers=labelers, items=items)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    seen = asyncio.run(load(workspace, port, badges, seconds=seconds, kill=kill, think=think, processes=processes))
    workspace.store.close()  # its connections may have died with the database
    wrong = check(workspace, seen)
    workspace.store.close()
    return {
        "database": workspace.store.engine.dialect.name,
        "processes": processes,
        "labelers": labelers,
        "seconds": seconds,
        "killed": kill,
        "think": think,
        "submitted": len(seen.acknowledged),
        "lost_connections": seen.lost_connections,
        "come_again": seen.come_again,
        "milliseconds": {kind: _quantiles(times) for kind, times in seen.seconds.items()},
        "wrong": wrong,
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {name: round(cuts[at] * 1000, 1) for name, at in (("p50", 49), ("p95", 94), ("p99", 98))}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="URL of an empty database; default: SQLite")
    parser.add_argument("--labelers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--think", type=float, nargs=2, default=(4.0, 12.0), metavar="SECONDS", help="least and most")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kill", choices=("server", "process", "database"), default="", help="by SIGKILL, half-way")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = run(
            Path(directory) / "workspace",
            database=args.database,
            labelers=args.labelers,
            seconds=args.seconds,
            kill=args.kill,
            processes=args.processes,
            think=tuple(args.think),
        )
    print(json.dumps(figures, indent=2))
    return 1 if figures["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
