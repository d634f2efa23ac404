"""Who gets in where: every route as every role and as nobody, from other sites, with others' ids, hostile texts."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from tests.studio.collected import collect
from tests.studio.conftest import PASSWORD, Client, ClientOf, Studio
from tests.studio.described import filled
from tests.studio.fake import Fake
from tests.studio.labeling.test_label import ATTACKS, Inspector

from palate.feedback.chat import conversations, exchanges
from palate.feedback.chat.conversations import ChatSettings
from palate.feedback.labelers import guidelines
from palate.feedback.store import people, policies
from palate.feedback.store.tables import (
    ROLES,
    Batch,
    ChatMessage,
    Conversation,
    Item,
    Job,
    Login,
    Round,
    Task,
    Token,
    User,
)
from palate.feedback.tasks import batches, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Prompt, Provenance, Response
from palate.studio.app import create_app, routes_of
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator
from palate.studio.web.access import ANYONE, COOKIE, allow, roles_of
from palate.studio.web.description import describe
from palate.studio.web.security import HEADERS
from palate.studio.web.workspace import Settings

SAFE = {"GET", "HEAD", "OPTIONS"}
HTML = {"Accept": "text/html"}
JSON = {"Accept": "application/json"}
UPLOADS = ("/api/uploads", "/api/prompts/file", "/api/batches/file", "/api/screening/import", "/api/runs/file")


@pytest.fixture(autouse=True)
def silent(studio: Studio) -> None:
    """A model that says nothing, and no jobs."""
    fake = Fake(*[""] * 1000)
    studio.app.state.generator = fake
    studio.app.state.desk = Desk(fake, studio.store, locator(studio.workspace), per_person=2)


@pytest.fixture
def stranger(studio: Studio) -> TestClient:
    """A browser in which nobody is signed in."""
    return TestClient(studio.app, follow_redirects=False, headers=HTML)


def calls(studio: Studio) -> Iterator[tuple[str, str, APIRoute]]:
    """Every method of every route, with an id that nothing has; signing out comes last."""
    for route in sorted(routes_of(studio.app), key=lambda route: route.path == "/sign-out"):
        for method in sorted(route.methods or ()):
            yield method, re.sub(r"\{[^}]*\}", "nothing", route.path), route


# who gets in


@pytest.mark.parametrize("role", ROLES)
def test_every_route_lets_in_those_it_names_and_nobody_else(studio: Studio, client_of: ClientOf, role: str) -> None:
    client = client_of(role)
    wrong = []
    for method, path, route in calls(studio):
        answer = client.request(method, path, headers=HTML, follow_redirects=False)
        is_open = roles_of(route) == ANYONE or role in roles_of(route)
        assert answer.status_code < 500, (method, path)
        if (answer.status_code not in (401, 403)) != is_open:
            wrong.append((method, path, answer.status_code, answer.text[:80]))
    assert wrong == []


def test_nobody_is_sent_to_sign_in_or_told_to(studio: Studio, stranger: TestClient) -> None:
    for method, path, route in calls(studio):
        if roles_of(route) == ANYONE:
            continue
        as_browser = stranger.request(method, path, headers=HTML)
        as_program = stranger.request(method, path, headers=JSON)
        assert as_program.status_code == 401, (method, path)
        if not path.startswith("/v1/"):  # which has a protocol of its own
            assert as_program.headers["www-authenticate"] == "Bearer"
        if path.startswith(("/api/", "/v1/")):
            assert as_browser.status_code == 401, (method, path)
        else:
            assert as_browser.status_code == 303, (method, path)
            assert as_browser.headers["location"].startswith("/sign-in?next=/"), (method, path)


def test_a_token_that_is_wrong_revoked_or_in_the_wrong_place_opens_nothing(
    studio: Studio, client_of: ClientOf, stranger: TestClient
) -> None:
    admin = client_of("admin")
    secret = admin.post("/api/tokens", json={"name": "mine"}).json()["secret"]
    get = lambda value: stranger.get("/api/people", headers={"Authorization": value}).status_code  # noqa: E731
    assert get(f"Bearer {secret}") == 200
    for wrong in (f"Basic {secret}", f"Bearer {secret[:-1]}", "Bearer ", b"Bearer \xff", secret, f"Bearer {secret} x"):
        assert get(wrong) == 401
    assert stranger.get(f"/api/people?token={secret}").status_code == 401
    token = admin.get("/api/tokens").json()[0]["id"]
    assert admin.delete(f"/api/tokens/{token}").status_code == 204
    assert get(f"Bearer {secret}") == 401


# where it comes from


def test_every_change_wants_the_sessions_own_proof(studio: Studio, client_of: ClientOf) -> None:
    client, other = client_of("admin"), client_of("admin")
    own = client.headers.pop("X-CSRF-Token")
    foreign = other.headers["X-CSRF-Token"]
    for method, path, route in calls(studio):
        if method in SAFE or roles_of(route) == ANYONE:
            continue
        forged: list[dict[str, Any]] = [
            {},
            {"headers": {"X-CSRF-Token": foreign}},
            {"headers": {"X-CSRF-Token": ""}},
            {"data": {"csrf": foreign}},
            {"params": {"csrf": own}},
            {"json": {"csrf": own}},
            {"headers": {"Content-Type": "text/plain"}, "content": f"csrf={own}"},
        ]
        for attempt in forged:
            answer = client.request(method, path, follow_redirects=False, **attempt)
            assert answer.status_code in (403, 422), (method, path, attempt, answer.status_code)
            assert answer.status_code == 403 or "json" in attempt or "data" in attempt, (method, path, attempt)
    assert client.get("/account").status_code == 200, "still signed in"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_forms_without_a_session_are_refused_from_other_sites(
    studio: Studio, stranger: TestClient, client_of: ClientOf, headers: dict[str, str]
) -> None:
    client_of("labeler", "Lea")
    form = {"name": "Lea", "password": PASSWORD}
    open_to_all = [path for method, path, route in calls(studio) if method not in SAFE and roles_of(route) == ANYONE]
    assert sorted(open_to_all) == ["/join/nothing", "/sign-in"]
    for path in open_to_all:
        answer = stranger.post(path, data=form, headers=headers)
        assert answer.status_code == 403, path
        assert "set-cookie" not in answer.headers
    assert stranger.post("/sign-in", data=form, headers={"Origin": "http://testserver"}).status_code == 303


# sessions


def test_a_cookie_from_before_is_never_adopted(studio: Studio, client_of: ClientOf, stranger: TestClient) -> None:
    client_of("labeler", "Lea")
    form = {"name": "Lea", "password": PASSWORD}
    planted = "a" * 43
    tokens = []
    for _ in range(2):
        stranger.cookies.clear()
        stranger.cookies.set(COOKIE, planted)
        answer = stranger.post("/sign-in", data=form)
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=lax" in cookie.lower()
        tokens.append(re.match(rf"{COOKIE}=([^;]+)", cookie)[1])  # type: ignore[index]
    assert len({*tokens, planted}) == 3
    with studio.store.read() as session:
        hashes = set(session.scalars(select(Login.token_hash)))
    assert people.hash_secret(planted) not in hashes
    assert not hashes & set(tokens), "only hashes are kept"


def test_cookies_are_for_https_where_it_is_used(studio: Studio, client_of: ClientOf) -> None:
    client_of("labeler", "Lea")
    app = create_app(studio.workspace, secure_cookies=True)
    client = TestClient(app, follow_redirects=False, headers=HTML)
    answer = client.post("/sign-in", data={"name": "Lea", "password": PASSWORD})
    assert "; secure" in answer.headers["set-cookie"].lower()


def test_another_role_ends_every_session(studio: Studio, client_of: ClientOf) -> None:
    admin, lea = client_of("admin"), client_of("labeler")
    assert lea.get("/api/tasks/mine").status_code == 200
    assert admin.patch(f"/api/people/{lea.user.id}", json={"role": "researcher"}).status_code == 200
    assert lea.get("/api/tasks/mine").status_code == 401
    with studio.store.write() as session:  # even one that the database still knows
        session.add(
            Login(token_hash=people.hash_secret("old"), user_id=lea.user.id, role="labeler", csrf="x",
                  created_at=time.time(), seen_at=time.time())
        )  # fmt: skip
    assert TestClient(studio.app, cookies={COOKIE: "old"}).get("/api/tasks/mine").status_code == 401


def test_signing_out_and_a_new_password_end_sessions_on_the_server(studio: Studio, client_of: ClientOf) -> None:
    lea = client_of("labeler", "Lea")
    token = lea.cookies[COOKIE]
    with studio.store.write() as session:
        second = people.open_session(session, session.get_one(User, lea.user.id))
    answer = lea.post("/account/password", data={"old": PASSWORD, "new": "another long one"}, follow_redirects=False)
    assert answer.status_code == 200
    for dead in (token, second.token):
        assert TestClient(studio.app, cookies={COOKIE: dead}).get("/api/tasks/mine").status_code == 401
    fresh = TestClient(studio.app, follow_redirects=False, headers=HTML)
    fresh.post("/sign-in", data={"name": "Lea", "password": "another long one"})
    kept = fresh.cookies[COOKIE]
    csrf = re.search(r'name="csrf" content="([^"]+)"', fresh.get("/account", headers=HTML).text)
    assert csrf is not None
    assert fresh.post("/sign-out", data={"csrf": csrf[1]}).status_code in (200, 303)
    assert TestClient(studio.app, cookies={COOKIE: kept}).get("/api/tasks/mine").status_code == 401


def test_guessing_a_password_slows_down_and_tells_nothing(client_of: ClientOf, stranger: TestClient) -> None:
    client_of("labeler", "Lea")
    said = {
        stranger.post("/sign-in", data={"name": name, "password": "wrong"}, headers=JSON).text
        for name in ("Lea", "Nobody")
    }
    assert len(said) == 1
    answers = [stranger.post("/sign-in", data={"name": "LEA ", "password": "wrong"}) for _ in range(10)]
    assert answers[-1].status_code == 429
    right = stranger.post("/sign-in", data={"name": "Lea", "password": PASSWORD}, headers=JSON)
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) > 0


def test_after_signing_in_one_goes_nowhere_else(client_of: ClientOf, stranger: TestClient) -> None:
    client_of("labeler", "Lea")
    for number, evil in enumerate(("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)")):
        form = {"name": "Lea", "password": PASSWORD, "next": evil}
        assert stranger.post("/sign-in", data=form).headers["location"] == "/", number


# bodies


def test_bodies_that_are_too_large_are_refused(studio: Studio, client_of: ClientOf) -> None:
    client = client_of("admin")
    studio.workspace.settings = Settings(upload_megabytes=1)
    large = b"x" * (2 << 20)
    for method, path, _ in calls(studio):
        if method in SAFE or path == "/api/uploads" or "file" in path or "import" in path or path == "/sign-out":
            continue
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            answer = client.request(method, path, content=large, headers={"Content-Type": kind, **JSON})
            reads_nothing = answer.status_code in (404, 409, 200, 204)
            assert answer.status_code == 413 or reads_nothing, (method, path, answer.status_code)
    for path in ("/api/tasks/preview", "/api/people/x", "/api/prompts", "/api/runs"):
        method = "PATCH" if path.startswith("/api/people") else "POST"
        assert client.request(method, path, content=large).status_code == 413, path
    for path in UPLOADS:
        form = {"name": "x", "threshold": "0.5"}
        answer = client.post(path, data=form, files={"file": ("x.jsonl", b"x" * (5 << 20))})
        assert answer.status_code == 413, path
        assert "error" in answer.json()


BROKEN: list[tuple[str, bytes]] = [
    ("x.jsonl", b""),
    ("x.jsonl", b"\x00\x01\x02"),
    ("x.jsonl", b"\xff\xfe\xfa"),
    ("x.jsonl", b'{"prompt": "a\\u0000b", "chosen": "\\ud800", "rejected": "c"}\n' * 3),
    ("x.json", b'[{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}]'),
    ("x.jsonl", b'{"prompt":' * 3000),
    ("x.jsonl", b'{"prompt": ' + b"9" * 5000 + b"}\n"),
    ("x.json", b"[" * 100_000),
    ("x.csv", b'prompt,response\n"unclosed'),
    ("x.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:20]),
    ("x.jsonl.gz", b"not gzip"),
    ("x.parquet", b"PAR1 not parquet"),
    ("x.exe", b"MZ"),
    ("../../palate.db", b"{}"),
    ("x\x00.jsonl", b"{}"),
    ("." * 300, b"{}"),
    ("x.jsonl", b"{}\n" * 1000),
]


def test_uploads_that_are_broken_say_so(studio: Studio, client_of: ClientOf) -> None:
    client = client_of("admin")
    for path in UPLOADS:
        form = {"what": "filter"} if path == "/api/runs/file" else {"name": "x", "threshold": "0.5"}
        for name, content in BROKEN:
            answer = client.post(path, data=form, files={"file": (name, content)})
            where = (path, name, content[:20], answer.status_code, answer.text[:200])
            assert answer.status_code in (200, 201, 400, 409, 422), where
            if answer.status_code >= 400:
                assert 0 < len(answer.json()["error"]) < 3000, where
                assert "/tmp" not in answer.text, where
        for content in (b"", b"--x", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'):
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            assert client.post(path, content=content, headers=headers).status_code in (400, 422), (path, content)


# headers


def test_every_kind_of_answer_has_the_headers(studio: Studio, client_of: ClientOf, stranger: TestClient) -> None:
    collect(studio.store, [client_of("labeler").user])
    admin = client_of("admin")
    with studio.store.write() as session:
        model = policies.base_policy(session, "base")
        conversation = conversations.start(session, admin.user, model.id, ChatSettings())

    def broken() -> None:
        raise RuntimeError("a bug of ours")

    studio.app.get("/broken")(allow(ANYONE)(broken))
    careless = TestClient(studio.app, raise_server_exceptions=False)
    answers = {
        "page": admin.get("/exports", headers=HTML),
        "api": admin.get("/api/exports"),
        "file": admin.get("/api/exports/palate"),
        "stream": admin.post(f"/api/chat/conversations/{conversation.id}/messages", json={"text": "hi"}),
        "static": stranger.get("/static/web/palate.css"),
        "static missing": stranger.get("/static/nothing.css"),
        "sign-in": stranger.get("/sign-in", headers=HTML),
        "redirect": stranger.get("/label", headers=HTML),
        "401": stranger.get("/api/people"),
        "403": client_of("chat").get("/people", headers=HTML),
        "404": admin.get("/no/such/page", headers=HTML),
        "404 api": admin.get("/api/no-such"),
        "405": admin.put("/exports"),
        "409": admin.get("/api/exports/palate", params={"batch": "nothing"}),
        "413": admin.post("/api/prompts", content=b"x" * (2 << 20)),
        "422": admin.post("/api/invitations", json={"role": "king"}),
        "v1": admin.post("/v1/chat/completions", json={}),
        "500": careless.get("/broken"),
        "health": stranger.get("/healthz"),
    }
    assert [answers[name].status_code for name in ("page", "file", "stream", "static", "405", "409", "413", "500")] == [
        200, 200, 200, 200, 405, 409, 413, 500,
    ]  # fmt: skip
    for name, answer in answers.items():
        for header, value in HEADERS.items():
            assert answer.headers.get(header) == value, (name, header)
        assert "server" not in answer.headers, name
        kept = answer.headers["cache-control"]
        assert ("no-store" in kept) == ("static" not in name) or name == "stream", (name, kept)
    assert "a bug of ours" not in answers["500"].text


# others' things


def test_what_is_somebody_elses_is_not_there(studio: Studio, client_of: ClientOf) -> None:
    """Every route that takes the id of something personal, as another labeler and as an admin."""
    lea = client_of("labeler")
    with studio.store.write() as session:
        batch = batches.create_batch(session, BatchPlan(name="batch", overlap=3), by=None)
        prompt = Prompt.from_text("a question")
        batches.add_prompts(session, [prompt])
        rows = [batches.add_response(session, prompt.id, Response(text=each)) for each in ("one", "two")]
        batches.add_item(session, batch, prompt.id, [row.id for row in rows])
        user = session.get_one(User, lea.user.id)
        task = queue.claim(session, user)
        assert task is not None
        queue.save_draft(session, task, {"comment": "a private note"})
        model = policies.base_policy(session, "base")
        conversation = conversations.start(session, user, model.id, ChatSettings(consent=True))
        ask = exchanges.say(session, conversation, "a private question")
        answer_id = ask.answers[0].message_id
        exchanges.end(session, answer_id, "a private answer", "done", Provenance(model="base"))
        token, _ = people.issue_token(session, user, "private")
        ids = {"task_id": task.id, "conversation_id": conversation.id, "answer_id": answer_id, "token_id": token.id}
    before = snapshot(studio)
    described = describe(studio.app)
    tried = set()
    for other in (client_of("labeler"), client_of("reviewer"), client_of("admin")):
        for route in routes_of(studio.app):
            names = re.findall(r"\{(\w+)", route.path)
            if not set(names) & ids.keys():
                continue
            path = re.sub(r"\{(\w+)[^}]*\}", lambda found: (ids | {"place": "0"}).get(found[1], "thumb"), route.path)
            for method in route.methods or ():
                operation = described["paths"].get(route.path, {}).get(method.lower(), {})
                for body in bodies(operation, described["components"]["schemas"]):
                    answer = other.request(method, path, json=body)
                    assert answer.status_code == 404, (method, path, body, answer.status_code, answer.text[:200])
                    assert "private" not in answer.text
                tried |= set(names)
    assert tried >= ids.keys()
    assert snapshot(studio) == before
    mine = client_of("labeler")
    for path in ("/api/chat/conversations", "/api/tokens", "/api/tasks/mine", "/label", "/chat", "/tokens"):
        assert "private" not in mine.get(path).text, path


def bodies(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[Any]:
    """One that the operation takes: the id is looked at before the rest, or the rest is right."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        yield None
        return
    shapes = content["schema"].get("anyOf", [content["schema"]])
    for shape in shapes:
        body = filled(shape, schemas, "text")
        yield {name: GOOD.get(name, value) for name, value in body.items()}


GOOD: dict[str, Any] = {
    "flags": [[], []], "ratings": [1, 2], "ranks": [1, 2], "reasons": [], "reason": "other", "kind": "ranking",
    "strength": 1, "temperature": 1, "max_new_tokens": 8,
}  # fmt: skip


def snapshot(studio: Studio) -> list[Any]:
    """What belongs to people."""
    tables = (Task, Conversation, ChatMessage, Token)
    with studio.store.read() as session:
        return [
            sorted(map(tuple, session.execute(text(f"SELECT * FROM {table.__tablename__}"))), key=str)
            for table in tables
        ]


# hostile texts


def test_hostile_text_does_nothing_on_any_page(studio: Studio, client_of: ClientOf) -> None:
    """As prompt, response, name, comment, guideline, batch, round, job, note, title, token: on every page there is."""
    evil = "<img src=x onerror=alert(1)>"
    everything = "\n\n".join(ATTACKS)
    one, two = client_of("labeler", evil), client_of("labeler", "<b onclick=alert(1)>b</b>")
    admin = client_of("admin", "</title><script>alert(1)</script>")
    collect(studio.store, [one.user, two.user], texts=[f"{number} {everything}" for number in range(4)])
    ids = plant(studio, admin, evil, everything)
    seen = 0
    for path, answer in pages(studio, admin, ids):
        if path.endswith("/report"):  # a file with styles of its own, in a box where nothing runs or loads
            assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none';")
            continue
        if "json" in answer.headers["content-type"]:
            found = inspect("".join(strings(answer.json())))
        else:
            found = inspect(answer.text)
        assert found == [], path
        assert ">49<" not in answer.text, path
        seen += "alert(1)" in answer.text
    assert seen > 10, "attacks are shown as text"


def test_every_text_is_laid_out_in_its_own_direction(studio: Studio, client_of: ClientOf) -> None:
    """What somebody wrote, and where somebody writes: on every page it has dir=auto, or is a <bdi>."""
    text = "\u05e9\u05dc\u05d5\u05dd planted"
    one, two, admin = (client_of(role, f"{text} {n}") for n, role in enumerate(("labeler", "labeler", "admin")))
    collect(studio.store, [one.user, two.user], texts=[f"{number} {text}" for number in range(4)])
    ids = plant(studio, admin, text, f"{text}\n\n- {text}\n\n`{text}`")
    seen = 0
    for path, answer in pages(studio, admin, ids):
        if path.endswith("/report") or "html" not in answer.headers["content-type"]:
            continue
        directions = Directions()
        directions.feed(answer.text)
        assert directions.wrong == [], path
        seen += directions.seen
    assert seen > 100


def pages(studio: Studio, client: Client, ids: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Every page there is, with these ids in the addresses."""
    for route in routes_of(studio.app):
        if "GET" not in (route.methods or ()) or route.path.startswith(("/api/", "/v1/", "/join")):
            continue
        path = re.sub(r"\{(\w+)[^}]*\}", lambda found: ids[found[1]], route.path)
        answer = client.get(path, headers=HTML)
        assert answer.status_code in (200, 404), (path, answer.status_code)
        yield path, answer


NO_CHILDREN = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NOT_SHOWN = {"title", "script", "option", "style", "svg"}


class Directions(HTMLParser):
    """Finds planted text, and fields for text, that do not say which way they run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.wrong: list[str] = []
        self.seen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        own = given.get("dir") or ("auto" if tag == "bdi" else None)
        is_field = tag == "textarea" or (tag == "input" and given.get("type", "text") in {"text", "search"})
        if is_field and own != "auto":
            self.wrong.append(self.get_starttag_text() or tag)
        if tag not in NO_CHILDREN:
            self.open.append((tag, own))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if (
            not ("planted" in data or re.search("(ranking|pair|demonstration) question", data))
            or {tag for tag, _ in self.open} & NOT_SHOWN
        ):
            return
        self.seen += 1
        if next((own for _, own in reversed(self.open) if own), None) != "auto":
            self.wrong.append(f"{'>'.join(tag for tag, _ in self.open[-4:])}: {data.strip()[:60]}")


def plant(studio: Studio, admin: Client, evil: str, everything: str) -> dict[str, str]:
    """Hostile text in every other place; returns an id for every parameter of a page's address."""
    with studio.store.write() as session:
        by = session.get_one(User, admin.user.id)
        guidelines.write(session, by, everything, after=0)
        session.add(Round(number=1, name=evil, created_at=1.0))
        for batch in session.scalars(select(Batch)):
            batch.name = evil
        job = Job(
            name=evil, stage="ppo", recipe=f"# {evil}", directory="runs/x", state="failed", message=everything,
            created_by=by.id, created_at=1.0, started_at=1.0,
        )  # fmt: skip
        session.add(job)
        model = policies.base_policy(session, "base")
        model.name = evil
        conversation = conversations.start(session, by, model.id, ChatSettings())
        ask = exchanges.say(session, conversation, everything)
        exchanges.end(session, ask.answers[0].message_id, everything, "done", Provenance(model="base"))
        people.issue_token(session, by, evil)
        people.invite(session, "labeler", by=by, note=evil)
        batch = session.scalars(select(Batch).where(Batch.is_screening)).one()
        pile = session.scalars(select(Batch).where(Batch.kind == "ranking", ~Batch.is_screening)).one()
        item = session.scalars(select(Item).where(Item.batch_id == pile.id)).first()
        assert item is not None
        again = batches.create_batch(session, BatchPlan(name=evil), by=by)
        batches.add_item(session, again, item.prompt_id, item.response_ids)
        task = queue.claim(session, by, batch_id=again.id)
        assert task is not None
        queue.save_draft(session, task, {"comment": everything})
        held = batches.create_batch(session, BatchPlan(name=evil, kind="arena"), by=by)
        held.settings = {"models": [model.id, model.id]}
        directory = studio.workspace.directory / "runs" / "x"
        directory.mkdir(parents=True)
        for name in ("log.txt", "samples.jsonl", "report.html"):
            (directory / name).write_text(everything, encoding="utf-8")
        ids = {
            "task_id": task.id, "conversation_id": conversation.id, "user_id": by.id, "batch_id": batch.id,
            "item_id": item.id, "run_id": job.id, "arena_id": held.id, "place": "0",
        }  # fmt: skip
    return ids


class PageInspector(Inspector):
    """Knows all scripts of ours, and buttons that send a form elsewhere in the app."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script" and re.fullmatch(r"/static/\w+/\w+\.js(\?v=\w+)?", given.get("src") or ""):
            return
        kept = [
            (name, value) for name, value in attrs if not (name == "formaction" and (value or "").startswith("/api/"))
        ]
        super().handle_starttag(tag, [(name, value) for name, value in kept if not (value or "").startswith("?")])


def inspect(html: str) -> list[str]:
    inspector = PageInspector()
    inspector.feed(html)
    return inspector.bad


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
