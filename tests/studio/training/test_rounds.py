"""Rounds: the lineage from policy to policy, and where the next one starts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tests.studio.conftest import Client, ClientOf, Studio

from palate.evals.winrate import WinRate
from palate.feedback.store.tables import Batch, Model, Round
from palate.feedback.tasks import arena, batches
from palate.feedback.tasks.batches import BatchPlan
from palate.studio.training import jobs, plans
from palate.studio.training.recipebook import Plan


@pytest.fixture
def admin(client_of: ClientOf) -> Client:
    client = client_of("admin")
    assert client.post("/api/rounds/policy", json={"model": "tiny"}).status_code == 200
    return client


def model(studio: Studio, name: str, kind: str = "policy", number: int | None = 1) -> str:
    with studio.store.write() as session:
        session.add(made := Model(name=name, path=f"runs/{name}", kind=kind, created_at=9.0, round_number=number))
        session.flush()
        return made.id


def test_without_a_model_there_is_no_round_and_the_page_leads_on(client_of: ClientOf) -> None:
    client = client_of("researcher")
    assert client.get("/api/rounds").json() == []
    assert 'href="/start"' in client.get("/rounds", headers={"accept": "text/html"}).text


def test_the_next_round_starts_from_the_model_that_was_made(admin: Client, studio: Studio) -> None:
    better = model(studio, "better")
    got = admin.post("/api/rounds", json={"model_id": better, "name": "Second"})
    assert got.status_code == 201, got.text
    assert (got.json()["number"], got.json()["policy"]["name"], got.json()["closed_at"]) == (2, "better", None)
    second, first = admin.get("/api/rounds").json()
    assert second["number"] == 2
    assert first["closed_at"] is not None
    assert [each["name"] for each in first["models"]] == ["better"]


def test_a_round_starts_from_a_model_that_answers(admin: Client, studio: Studio) -> None:
    assert admin.post("/api/rounds", json={"model_id": model(studio, "judge", "reward")}).status_code == 404
    assert admin.post("/api/rounds/policy", json={"model": model(studio, "judge2", "reward")}).status_code == 409
    assert admin.post("/api/rounds", json={"model_id": "nothing"}).status_code == 404
    assert len(admin.get("/api/rounds").json()) == 1


def test_a_round_under_way_keeps_its_model(admin: Client, studio: Studio) -> None:
    with studio.store.write() as session:
        batches.create_batch(session, BatchPlan(name="b", round_number=1), by=None)
    got = admin.post("/api/rounds/policy", json={"model": "smollm2-135m"})
    assert (got.status_code, got.json()["error"]) == (
        409,
        "this round is under way: start the next one from that model",
    )
    assert admin.post("/api/rounds/policy", json={"model": "tiny"}).status_code == 200  # it is the one


def test_only_an_admin_begins_a_round(admin: Client, studio: Studio, client_of: ClientOf) -> None:
    better = model(studio, "better")
    assert client_of("researcher").post("/api/rounds", json={"model_id": better}).status_code == 403
    assert client_of("labeler").get("/rounds").status_code == 403


def test_one_page_tells_the_whole_lineage(admin: Client, studio: Studio) -> None:
    new = model(studio, "ppo-1")
    old = admin.get("/api/rounds").json()[0]["policy"]["id"]
    home = studio.workspace
    with studio.store.write() as session:
        batches.create_batch(session, BatchPlan(name="Answers of round one", round_number=1), by=None)
        data = {"path": "data/rankings-abc.jsonl"}
        for name, command, then in (
            ("sample", "sample", {}),
            ("reward", "reward", {}),
            ("win rate", "eval", {"model_id": new, "baseline_id": old}),
        ):
            recipe = f'[data]\npath = "{data["path"]}"\n' if command == "reward" else ""
            plan = Plan(name=name, command=command, recipe=recipe, then=then, round_number=1)
            job = jobs.enqueue(session, home, plan, by=None)
            job.state = "done"
            jobs.directory_of(home, job).mkdir()
            if command == "eval":
                figures = {"win_rate": 0.625, "win_rate_low": 0.5, "win_rate_high": 0.75}
                (jobs.directory_of(home, job) / "report.json").write_text(json.dumps(figures))
    card = {"path": data["path"], "kind": "rankings", "count": 1234, "people": 3, "sha256": "abc" * 20}
    (home.data / "rankings-abc.json").write_text(json.dumps(card | {"left_out": {}, "notes": []}))
    html = admin.get("/rounds", headers={"accept": "text/html"}).text
    order = ["Starts from", "tiny", "Answers of round one", "1,234 rankings", "ppo-1", "Start the next round", "62%"]
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    assert "abcabcabcabc</code>" in html
    assert "Preferred by the reward model against tiny" in html
    assert "arena" in html  # people are the better judges
    assert "style=" not in html


def test_closed_arenas_are_told_from_the_side_of_the_rounds_own_model(
    admin: Client, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = model(studio, "ppo-1")
    old = admin.get("/api/rounds").json()[0]["policy"]["id"]
    win = WinRate(rate=0.25, low=0.125, high=0.375, wins=1, ties=0, losses=3, num_prompts=4)
    monkeypatch.setattr(arena, "result", lambda session, batch: SimpleNamespace(win=win))
    with studio.store.write() as session:
        shared = {"alike": 0, "left_out": 0}
        closed = Batch(name="a", kind="arena", state="closed", created_at=1.0)
        closed.settings = {"models": [old, new], "closed_at": 2.0, **shared}
        still_open = Batch(name="b", kind="arena", created_at=1.0, settings={"models": [new, old], **shared})
        session.add_all([closed, still_open])
    html = admin.get("/rounds", headers={"accept": "text/html"}).text
    assert html.count("Preferred by people against tiny</figcaption>") == 1
    assert "ppo-1: 75% (62% to 88%)." in html


def test_the_model_that_is_likely_meant(admin: Client, studio: Studio) -> None:
    def likely(command: str) -> str:
        with studio.store.read() as session:
            chosen = plans.likely_model(session, command, session.get_one(Round, 1))
            return session.get_one(Model, chosen).name

    assert [likely(command) for command in ("sft", "reward", "ppo", "eval")] == ["tiny"] * 4
    for at, stage in enumerate(("sft", "ppo")):
        with studio.store.write() as session:
            job = jobs.enqueue(session, studio.workspace, Plan(name=stage, command=stage, recipe="", then={}), by=None)
            made = Model(name=stage, path=stage, created_at=float(at), job_id=job.id, round_number=1)
            session.add(made)
    assert [likely(command) for command in ("sft", "reward", "ppo", "eval")] == ["tiny", "sft", "sft", "ppo"]
