"""The described API is called with whatever its description allows, and with what it does not: never a 5xx.

Schemathesis makes the requests; they go to the app in this process, with a token, so that nothing waits and no job or
model is started. Texts that a database or a terminal chokes on are put into every place by hand as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from argon2 import PasswordHasher
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from tests.postgres import Server
from tests.studio.collected import collect
from tests.studio.conftest import ClientOf, Studio
from tests.studio.described import filled
from tests.studio.fake import Fake

from palate.feedback.store import people
from palate.feedback.store.tables import User
from palate.studio.app import create_app
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator
from palate.studio.serve import create
from palate.studio.web.description import describe
from palate.studio.web.workspace import Settings

EXAMPLES = 2
NASTY = ["a\x00b", "\ud800", "../../etc/passwd", "x" * 3000]
NUMBERS = [2**63, 1e308]

JSON = "application/json"


@pytest.fixture
def app(studio: Studio, client_of: ClientOf) -> Any:
    """With something collected."""
    collect(studio.store, [client_of("labeler").user, client_of("labeler").user])
    return mute(studio)


def mute(studio: Studio) -> Any:
    """The app, with a model that says nothing."""
    fake = Fake(*[""] * 10_000)
    studio.app.state.generator = fake
    studio.app.state.desk = Desk(fake, studio.store, locator(studio.workspace), per_person=2)
    return studio.app


def with_token(studio: Studio, app: Any, user: User) -> TestClient:
    with studio.store.write() as session:
        _, secret = people.issue_token(session, session.get_one(User, user.id), "test")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)


@pytest.mark.parametrize("role", ["admin", "labeler"])
def test_no_request_that_can_be_made_breaks_the_app(studio: Studio, app: Any, client_of: ClientOf, role: str) -> None:
    client = with_token(studio, app, client_of(role).user)
    schema = schemathesis.openapi.from_dict(describe(app))
    failures: list[str] = []
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            nonlocal count
            sent = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
            headers = {name: value for name, value in sent.headers.items() if name.lower() != "authorization"}
            answer = client.request(sent.method, sent.url, headers=headers, content=sent.body, follow_redirects=False)
            count += 1
            if answer.status_code >= 500:
                failures.append(f"{sent.method} {sent.url} {str(sent.body)[:300]}: {answer.status_code}")

        check()
    assert not failures, "\n".join(map(str, failures))
    assert count > 100


def test_no_text_or_number_breaks_the_app(studio: Studio, app: Any, client_of: ClientOf) -> None:
    client = with_token(studio, app, client_of("admin").user)
    check_nothing_breaks(client, nasty_requests(describe(app), [*NASTY, *NUMBERS]))


def test_no_body_breaks_the_app(studio: Studio, app: Any, client_of: ClientOf) -> None:
    client = with_token(studio, app, client_of("admin").user)
    failures = []
    for path, item in describe(app)["paths"].items():
        where = re.sub(r"\{[^}]*\}", "x", path)
        for method in sorted(item.keys() & {"post", "put", "patch"}):
            for content in (b"", b"[]", b"\xff\xfe", b'{"a":' * 2000, b"1" * 5000):
                for kind in (JSON, "multipart/form-data"):
                    answer = client.request(method, where, content=content, headers={"Content-Type": kind})
                    if answer.status_code >= 500:
                        failures.append((method, path, kind, content[:20]))
    assert not failures, "\n".join(map(str, failures))


def test_what_postgresql_cannot_hold_breaks_nothing(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that writes NUL, people who send it, and numbers that fit no column."""
    monkeypatch.setattr(people, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    with postgres.empty() as url:
        workspace = create(tmp_path / "workspace", Settings(database=url))
        studio = Studio(app=create_app(workspace), workspace=workspace)
        with studio.store.write() as session:
            roles = {"ann": "labeler", "bob": "labeler", "ada": "admin"}
            made = [people.create_user(session, name, "a long password", role) for name, role in roles.items()]
        collect(studio.store, made[:2], texts=["a\x00b", r"c\u0000d", "e", "f"])
        client, described = with_token(studio, mute(studio), made[2]), describe(studio.app)
        check_nothing_breaks(client, nasty_requests(described, ["a\x00b", 2**63]))
        pages = ("/dashboard", "/exports?view=all", "/api/judgements", "/api/exports/palate", "/agreement", "/review")
        for page in pages:
            assert client.get(page, headers={"Accept": "text/html"}).status_code == 200, page
        assert r"c\\u0000d" in client.get("/api/exports/palate").text, "what only looks like one is left alone"
        workspace.store.close()


def check_nothing_breaks(client: TestClient, wanted: Iterator[tuple[str, str, dict[str, Any], Any]]) -> None:
    failures = []
    for method, path, query, body in wanted:
        content = None if body is None else json.dumps(body)
        answer = client.request(method, path, params=query, content=content, headers={"Content-Type": JSON})
        if answer.status_code >= 500:
            failures.append(f"{method} {path[:100]} {str(query)[:100]} {str(content)[:200]}: {answer.status_code}")
    assert not failures, "\n".join(failures)


def nasty_requests(described: dict[str, Any], values: Sequence[Any]) -> Iterator[tuple[str, str, dict[str, Any], Any]]:
    """Every operation with a nasty text or number in one kind of place at a time."""
    schemas = described["components"]["schemas"]
    for path, item in described["paths"].items():
        for method, operation in item.items():
            parameters = operation.get("parameters", [])
            plain = re.sub(r"\{[^}]*\}", "x", path)
            content = operation.get("requestBody", {}).get("content", {})
            for value in values:
                written = quote(str(value), safe="", errors="surrogatepass")
                if "{" in path:
                    yield method.upper(), re.sub(r"\{[^}]*\}", written, path), {}, None
                query = {each["name"]: str(value) for each in parameters if each["in"] == "query"}
                if query and value != "\ud800":
                    yield method.upper(), plain, query, None
                    for name, text in query.items():
                        yield method.upper(), plain, {name: text}, None
                if JSON in content:
                    yield method.upper(), plain, {}, filled(content[JSON]["schema"], schemas, value)
