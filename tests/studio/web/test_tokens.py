"""Tokens: made and revoked by people who are signed in, shown once."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store.tables import ROLES, Event, Token
from palate.studio.web.tokens import MOST_TOKENS


@pytest.fixture
def ada(client_of: ClientOf) -> Client:
    return client_of("chat", name="ada")


def program(studio: Studio, secret: str) -> TestClient:
    return TestClient(studio.app, headers={"Authorization": f"Bearer {secret}"})


def test_a_token_lets_a_program_in_until_it_is_revoked(studio: Studio, ada: Client) -> None:
    made = ada.post("/api/tokens", json={"name": " my   notebook "}).json()
    assert made["name"] == "my notebook"
    (listed,) = ada.get("/api/tokens").json()
    assert listed == {key: made[key] for key in ("id", "name", "created_at", "seen_at")}
    with program(studio, made["secret"]) as notebook:
        assert made["seen_at"] is None
        assert notebook.get("/api/chat/conversations").status_code == 200
        (used,) = ada.get("/api/tokens").json()
        assert used["seen_at"] >= used["created_at"]
        assert ada.delete(f"/api/tokens/{made['id']}").status_code == 204
        assert notebook.get("/api/chat/conversations").status_code == 401
    assert ada.get("/api/tokens").json() == []
    assert ada.delete(f"/api/tokens/{made['id']}").status_code == 404
    with studio.store.read() as session:
        assert made["secret"] not in str([vars(row) for row in session.query(Token)])
        assert [event.action for event in session.query(Event) if "token" in event.action] == [
            "issued a token",
            "revoked a token",
        ]


def test_a_token_makes_no_tokens(studio: Studio, ada: Client) -> None:
    made = ada.post("/api/tokens", json={"name": "notebook"}).json()
    notebook = program(studio, made["secret"])
    assert notebook.post("/api/tokens", json={"name": "another"}).status_code == 403
    assert notebook.delete(f"/api/tokens/{made['id']}").status_code == 403
    assert len(notebook.get("/api/tokens").json()) == 1


def test_somebody_elses_token_is_not_there(ada: Client, client_of: ClientOf) -> None:
    made = ada.post("/api/tokens", json={"name": "notebook"}).json()
    admin = client_of("admin")
    assert admin.get("/api/tokens").json() == []
    assert admin.delete(f"/api/tokens/{made['id']}").status_code == 404
    assert len(ada.get("/api/tokens").json()) == 1


def test_names_and_numbers_have_bounds(ada: Client) -> None:
    for name, status in (("", 422), ("  ", 409), ("x" * 61, 422)):
        assert ada.post("/api/tokens", json={"name": name}).status_code == status
    for _ in range(MOST_TOKENS):
        assert ada.post("/api/tokens", json={"name": "one more"}).status_code == 201
    full = ada.post("/api/tokens", json={"name": "one more"})
    assert (full.status_code, full.json()["error"]) == (409, "20 tokens are in use: revoke one first")


def test_the_page_is_for_everyone_and_tells_no_secret(client_of: ClientOf) -> None:
    for role in ROLES:
        client = client_of(role)
        secret = client.post("/api/tokens", json={"name": "<b>notebook</b>"}).json()["secret"]
        page = client.get("/tokens", headers={"Accept": "text/html"}).text
        assert "&lt;b&gt;notebook" in page
        assert secret not in page
        assert "http://testserver/v1" in page
