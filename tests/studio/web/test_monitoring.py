"""`/metrics`: what Prometheus reads is what the database says, and requests by route."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from tests.feedback.world import World
from tests.studio.conftest import ClientOf, Studio

import palate
from palate.feedback.store.tables import Job, Login, Model

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(client: TestClient) -> Samples:
    """Every sample by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: Samples = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_it_says_what_the_database_says(studio: Studio, client_of: ClientOf) -> None:
    world, rae = World(studio.store), client_of("researcher")
    ann, bob = world.user("Ann"), world.user("Bob")
    world.items(world.batch(overlap=2), 3)
    judgement = world.submit(world.claimed(ann))
    world.submit(world.claimed(ann))
    world.claimed(bob)
    world.withdraw(ann, judgement)
    with studio.store.write() as session:
        for number, state in enumerate(("done", "done", "failed")):
            session.add(Job(name="j", stage="sft", recipe="", directory=f"runs/{number}", created_at=1.0, state=state))
        session.add(Model(name="one", path="runs/one", created_at=1.0))
    found = scraped(rae)
    assert found["palate_version", (("version", palate.__version__),)] == 1
    assert found["palate_people", (("role", "labeler"),)] == 2
    assert found["palate_people", (("role", "researcher"),)] == 1
    assert {labels: value for (name, labels), value in found.items() if name == "palate_judgements_total"} == {
        (("kind", "ranking"),): 2,
        (("kind", "withdrawal"),): 1,
    }
    assert found["palate_tasks", (("state", "submitted"),)] == 1
    assert found["palate_jobs", (("state", "done"),)] == 2
    assert found["palate_jobs", (("state", "failed"),)] == 1
    assert found["palate_models", ()] == 1
    assert found["palate_open_places", ()] == 3
    assert found["palate_answers_being_written", ()] == 0
    assert found["palate_active_people", ()] == 1
    with studio.store.write() as session:
        session.execute(update(Login).values(seen_at=time.time() - 1000))
    assert scraped(client_of("admin"))["palate_active_people", ()] == 1, "another one, and the first no more"


def test_requests_are_counted_by_route_and_not_by_what_anybody_invents(studio: Studio, client_of: ClientOf) -> None:
    rae = client_of("researcher")
    before = scraped(rae)
    for number in range(3):
        rae.get(f"/api/chat/conversations/{number}")
        rae.get(f"/nowhere/{number}")
        rae.request(f"INVENT{number}", "/healthz")
    after = scraped(rae)
    new = {key: value - before.get(key, 0) for key, value in after.items() if "request_seconds_count" in key[0]}
    counted = {tuple(dict(labels).values()): value for (_, labels), value in new.items() if value}
    template = "/api/chat/conversations/{conversation_id}"
    assert counted == {
        ("GET", template, "404"): 3,
        ("GET", "other", "404"): 3,
        ("other", "/healthz", "405"): 3,
        ("GET", "/metrics", "200"): 1,
    }


@pytest.mark.parametrize("role", ["labeler", "chat", "reviewer"])
def test_it_is_not_for_everybody(role: str, client_of: ClientOf, studio: Studio) -> None:
    assert client_of(role).get("/metrics", headers={"Accept": "application/json"}).status_code == 403
    assert TestClient(studio.app).get("/metrics", headers={"Accept": "application/json"}).status_code == 401
