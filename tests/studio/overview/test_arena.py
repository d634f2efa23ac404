"""The arena's pages and its API: who may do what, and that names come last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store import policies
from palate.feedback.store.tables import Batch, Job, Model
from palate.feedback.tasks import batches
from palate.records import Candidates, Prompt, Response
from palate.studio.training import jobs, outcomes

MODELS = ("cobalt", "ochre")


class Promoter:
    """A researcher with two models and some prompts."""

    def __init__(self, studio: Studio, client: Client) -> None:
        self.studio, self.client = studio, client
        with studio.store.write() as session:
            self.models = [policies.base_policy(session, f"runs/{name}").id for name in MODELS]
            for model_id, name in zip(self.models, MODELS, strict=True):
                session.get_one(Model, model_id).name = name
            self.prompts = [Prompt.from_text(f"question {i}") for i in range(4)]
            batches.add_prompts(session, self.prompts)

    def make(self, status: int = 201, **changes: Any) -> Any:
        body = {"name": "autumn", "first_model_id": self.models[0], "second_model_id": self.models[1], **changes}
        response = self.client.post("/api/arenas", json=body)
        assert response.status_code == status, response.text
        return response.json()

    def job(self) -> Job:
        with self.studio.store.read() as session:
            return session.query(Job).filter(Job.state == "queued").one()

    def draw(self, texts: list[str]) -> Job:
        """What the job's process would do, and what is then done with it."""
        home, job = self.studio.workspace, self.job()
        directory = jobs.directory_of(home, job)
        directory.mkdir(parents=True)
        rows = [
            Candidates(prompt=prompt, responses=(Response(text=text),)).to_json()
            for prompt, text in zip(self.prompts, texts, strict=False)
        ]
        (directory / "candidates.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        apply = outcomes.prepare(home, job)
        with self.studio.store.write() as session:
            fresh = session.get_one(Job, job.id)
            for plan in apply(session, fresh):
                jobs.enqueue(session, home, plan, by=None)
            fresh.state = "done"
        return job

    def open(self, **changes: Any) -> str:
        arena_id = self.make(**changes)["id"]
        self.draw([f"from one {i}" for i in range(4)])
        self.draw([f"from two {i}" for i in range(4)])
        return str(arena_id)

    def get(self, arena_id: str) -> Any:
        return self.client.get(f"/api/arenas/{arena_id}").json()


@pytest.fixture
def promoter(studio: Studio, client_of: ClientOf) -> Promoter:
    return Promoter(studio, client_of("researcher"))


def judge(client: Client, better: str | None) -> Any:
    """The next pair: prefer the answer that holds this text."""
    task = client.post("/api/tasks/claim", json={}).json()["task"]
    assert task is not None
    ranks = [1 if better is None or better in text else 2 for text in task["responses"]]
    answer = client.post(f"/api/tasks/{task['id']}/submit", json={"ranks": ranks, "seconds": 30, "confirmed": True})
    assert answer.status_code == 200, answer.text
    return task


def test_from_two_models_to_a_result(promoter: Promoter, client_of: ClientOf) -> None:
    made = promoter.make(overlap=2, max_new_tokens=9, temperature=0.5)
    assert (made["state"], made["models"], made["result"], made["drawing"]["state"]) == (
        "drawing",
        None,
        None,
        "queued",
    )
    first = promoter.draw([f"from one {i}" for i in range(4)])
    assert '"runs/cobalt"' in first.recipe
    assert "max_new_tokens = 9" in first.recipe
    second = promoter.draw([f"from two {i}" for i in range(4)])
    assert '"runs/ochre"' in second.recipe
    opened = promoter.get(made["id"])
    assert (opened["state"], opened["pairs"], opened["wanted"], opened["drawing"]) == ("open", 4, 8, None)
    for name, winners in (("ann", ["two", "two", "one", None]), ("bob", ["two", "two", "two", "one"])):
        labeler = client_of("labeler", name=name)
        for winner in winners:
            judge(labeler, winner)
    assert promoter.get(made["id"])["votes"] == 8
    closed = promoter.client.post(f"/api/arenas/{made['id']}/close").json()
    assert (closed["state"], closed["models"]) == ("closed", ["cobalt", "ochre"])
    result = closed["result"]
    assert (result["wins"], result["ties"], result["losses"], result["num_prompts"]) == (2, 1, 5, 4)
    assert [labeler["name"] for labeler in result["labelers"]] == ["ann", "bob"]
    assert promoter.client.post(f"/api/arenas/{made['id']}/close").status_code == 409
    page = promoter.client.get(f"/arena/{made['id']}", headers={"Accept": "text/html"}).text
    assert "cobalt against ochre" in page
    assert "<svg" in page
    assert "style=" not in page


def test_nothing_tells_before_the_end(promoter: Promoter, client_of: ClientOf) -> None:
    arena_id = promoter.open(overlap=2)
    labeler = client_of("labeler")
    task = judge(labeler, "one")
    seen = [json.dumps(task)]
    for client, paths in (
        (labeler, ["/arena", "/label", "/api/tasks/mine", f"/api/tasks/{task['id']}", f"/label/{task['id']}"]),
        (client_of("reviewer"), ["/arena", f"/arena/{arena_id}", "/api/arenas", f"/api/arenas/{arena_id}"]),
        (promoter.client, ["/arena", f"/arena/{arena_id}", "/api/arenas", f"/api/arenas/{arena_id}"]),
    ):
        for path in paths:
            response = client.get(path, headers={"Accept": "application/json" if "/api/" in path else "text/html"})
            assert response.status_code == 200, path
            seen.append(response.text)
    for text in seen:
        for telling in (*MODELS, *promoter.models, '"rate"', '"wins"'):
            assert telling not in text, telling
    shown = promoter.get(arena_id)
    assert (shown["models"], shown["result"]) == (None, None)


def test_who_may(promoter: Promoter, client_of: ClientOf) -> None:
    arena_id = promoter.open()
    new = {"name": "x", "first_model_id": promoter.models[0], "second_model_id": promoter.models[1]}
    for role, statuses in {
        "chat": (403, 403, 403, 403, 403),
        "labeler": (200, 403, 403, 403, 403),
        "reviewer": (200, 200, 200, 403, 403),
        "researcher": (200, 200, 200, 201, 200),
    }.items():
        client = client_of(role)
        found = (
            client.get("/arena").status_code,
            client.get(f"/arena/{arena_id}").status_code,
            client.get("/api/arenas").status_code,
            client.post("/api/arenas", json=new).status_code,
            client.post(f"/api/arenas/{arena_id}/close").status_code,
        )
        assert found == statuses, role


def test_labelers_find_it(promoter: Promoter, client_of: ClientOf) -> None:
    labeler = client_of("labeler")
    page = {"headers": {"Accept": "text/html"}}
    assert "Nothing to compare right now" in labeler.get("/arena", **page).text
    promoter.make()
    assert "Nothing to compare right now" in labeler.get("/arena", **page).text
    promoter.draw([f"from one {i}" for i in range(4)])
    promoter.draw([f"from two {i}" for i in range(4)])
    shown = labeler.get("/arena", **page).text
    assert "autumn" in shown
    assert 'action="/label"' in shown


def test_mistakes(promoter: Promoter) -> None:
    assert "does not name a model" in promoter.make(409, name="Cobalt or not")["error"]
    assert "two different models" in promoter.make(409, second_model_id=promoter.models[0])["error"]
    promoter.make(404, second_model_id="nothing")
    promoter.make(422, num_prompts=0)
    assert promoter.client.get("/api/arenas/nothing").status_code == 404
    with promoter.studio.store.read() as session:
        assert session.query(Batch).count() == session.query(Job).count() == 0


def test_a_job_whose_answers_cannot_be_compared(promoter: Promoter) -> None:
    arena_id = promoter.make()["id"]
    promoter.draw(["same"] * 4)
    with pytest.raises(Exception, match="there is nothing to compare"):
        promoter.draw(["same"] * 4)
    assert promoter.get(arena_id)["state"] == "drawing"


def test_without_prompts(studio: Studio, client_of: ClientOf) -> None:
    client = client_of("admin")
    with studio.store.write() as session:
        ids = [policies.base_policy(session, path).id for path in ("a", "b")]
    new = {"name": "autumn", "first_model_id": ids[0], "second_model_id": ids[1]}
    response = client.post("/api/arenas", json=new)
    assert (response.status_code, response.json()["error"]) == (409, "there are no prompts yet: import some first")


def test_pages(promoter: Promoter) -> None:
    pages = {"/arena": "No arena yet", "/arena/new": 'data-api="/api/arenas"'}
    for path, text in pages.items():
        assert text in promoter.client.get(path, headers={"Accept": "text/html"}).text
    arena_id = promoter.make()["id"]
    page = promoter.client.get(f"/arena/{arena_id}", headers={"Accept": "text/html"}).text
    assert "The answers are being written" in page
