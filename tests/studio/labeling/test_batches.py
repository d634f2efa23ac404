"""Batches out of prompts, files and sampled answers; their progress; what may become of them."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store.tables import Batch, Item, Job, Model, User
from palate.feedback.tasks import judgements, queue
from palate.feedback.tasks.judgements import RankingForm
from palate.records import Candidates, Prompt, Provenance, Ranking, Response
from palate.studio.training import jobs, outcomes
from palate.studio.training.jobs import Runner

QUESTIONS = "\n".join(f"Question {number}?" for number in range(6))


def ranked(number: int, *texts: str) -> str:
    responses = tuple(Response(text=text) for text in texts)
    ranks = tuple(range(len(texts), 0, -1))
    return Ranking(prompt=Prompt.from_text(f"Q{number}"), responses=responses, ranks=ranks).to_json()


@pytest.fixture
def admin(client_of: ClientOf) -> Client:
    client = client_of("admin")
    client.post("/api/prompts", json={"lines": QUESTIONS})
    client.post("/api/rounds/policy", json={"model": "tiny"})
    return client


def upload(client: Client, lines: list[str], **fields: str) -> dict[str, object]:
    files = {"file": ("some.jsonl", "\n".join(lines).encode())}
    got = client.post("/api/batches/file", files=files, data={"name": "from a file", **fields})
    assert got.status_code == 201, got.text
    return dict(got.json())


def test_demonstrations_are_asked_for_once(admin: Client) -> None:
    got = admin.post("/api/batches/demonstrations", json={"name": "Write", "num_prompts": 4, "overlap": 2})
    assert got.status_code == 201
    assert (got.json()["items"], got.json()["wanted"], got.json()["round_number"]) == (4, 8, 1)
    assert admin.post("/api/batches/demonstrations", json={"name": "Rest", "num_prompts": 4}).json()["items"] == 2
    none = admin.post("/api/batches/demonstrations", json={"name": "None", "num_prompts": 4})
    assert (none.status_code, none.json()["error"]) == (
        409,
        "people were asked about every prompt already: import more prompts first",
    )


def test_a_file_of_rankings_becomes_items_without_its_judgements(admin: Client, studio: Studio) -> None:
    rows = [ranked(1, "a", "b", "c"), ranked(2, "d", "e"), "{broken"]
    made = upload(admin, rows, ratings="true", flags="off_task,violent")
    assert made["added"] == 2
    assert made["rejected"][0]["lines"] == [3]  # type: ignore[index]
    with studio.store.read() as session:
        batch = session.get_one(Batch, made["id"])
        assert (batch.kind, batch.is_screening) == ("ranking", False)
        assert batch.settings == {"ratings": True, "flags": ["off_task", "violent"]}
        items = session.scalars(select(Item).where(Item.batch_id == batch.id).order_by(Item.position)).all()
        assert [len(item.response_ids) for item in items] == [3, 2]
        assert [item.gold for item in items] == [None, None]


def test_a_screening_test_takes_its_answers_from_the_file(admin: Client, studio: Studio) -> None:
    made = upload(admin, [ranked(1, "a", "b", "c")], threshold="0.75")
    with studio.store.read() as session:
        batch = session.get_one(Batch, made["id"])
        item = session.scalars(select(Item).where(Item.batch_id == batch.id)).one()
        assert (batch.is_screening, batch.threshold, item.gold) == (True, 0.75, [3, 2, 1])


def test_a_file_must_suit_the_batch(admin: Client, studio: Studio) -> None:
    files = {"file": ("some.jsonl", ranked(1, "a", "b", "c").encode())}
    got = admin.post("/api/batches/file", files=files, data={"name": "pairs", "kind": "pair"})
    assert got.status_code == 409
    assert "does not have two responses (1)" in got.json()["error"]
    with studio.store.read() as session:
        assert session.scalars(select(Batch)).all() == []  # nothing half made is left behind


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"overlap": "many"}, "overlap"), ({"kind": "arena"}, "kind"), ({"overlap": "0"}, "overlap"), ({"x": "1"}, "x")],
)
def test_fields_beside_a_file_are_checked(admin: Client, fields: dict[str, str], where: str) -> None:
    files = {"file": ("some.jsonl", ranked(1, "a", "b").encode())}
    got = admin.post("/api/batches/file", files=files, data={"name": "n", **fields})
    assert got.status_code == 422
    assert got.json()["error"].startswith(f"{where}: ")


def test_progress_counts_what_people_did(admin: Client, studio: Studio, client_of: ClientOf) -> None:
    made = upload(admin, [ranked(1, "a", "b"), ranked(2, "c", "d")], overlap="2")
    worker = client_of("labeler").user
    with studio.store.write() as session:
        user = session.get_one(User, worker.id)
        task = queue.claim(session, user)
        assert task is not None
        judgements.submit_ranking(session, user, task, RankingForm(ranks=(1, 2), seconds=60))
        assert queue.claim(session, user) is not None
    got = admin.get(f"/api/batches/{made['id']}").json()
    assert (got["items"], got["wanted"], got["done"], got["covered"]) == (2, 4, 1, 1)
    items = admin.get(f"/api/batches/{made['id']}/items").json()
    assert sorted((item["prompt"], item["done"], item["in_hand"]) for item in items) == [("Q1", 1, 0), ("Q2", 0, 1)]
    html = admin.get(f"/batches/{made['id']}", headers={"accept": "text/html"}).text
    assert "in hand" in html
    assert "begun" in html
    assert admin.get("/batches", headers={"accept": "text/html"}).text.count("1 of 4") == 1


def test_a_paused_batch_hands_nothing_out(admin: Client, studio: Studio, client_of: ClientOf) -> None:
    made = upload(admin, [ranked(1, "a", "b")])
    worker = client_of("labeler").user

    def claims() -> bool:
        with studio.store.write() as session:
            task = queue.claim(session, session.get_one(User, worker.id))
            if task is not None:
                queue.skip(session, task, "")
            return task is not None

    assert admin.post(f"/api/batches/{made['id']}/state", json={"state": "paused"}).json()["state"] == "paused"
    assert not claims()
    admin.post(f"/api/batches/{made['id']}/state", json={"state": "open"})
    assert claims()
    assert admin.post(f"/api/batches/{made['id']}/state", json={"state": "gone"}).status_code == 422
    assert admin.post("/api/batches/nothing/state", json={"state": "open"}).status_code == 404


def test_an_arena_is_run_from_its_own_page(admin: Client, studio: Studio) -> None:
    with studio.store.write() as session:
        session.add(arena := Batch(name="a", kind="arena", created_at=1.0))
    assert admin.post(f"/api/batches/{arena.id}/state", json={"state": "closed"}).status_code == 409
    assert "To the arena" in admin.get(f"/batches/{arena.id}", headers={"accept": "text/html"}).text


def test_who_may_do_what(admin: Client, client_of: ClientOf) -> None:
    made = upload(admin, [ranked(1, "a", "b")])
    researcher, labeler = client_of("researcher"), client_of("labeler")
    sampled = {"name": "n", "num_prompts": 1}
    assert researcher.get("/api/batches").status_code == 200
    assert researcher.post("/api/batches/sampled", json=sampled).status_code == 403
    assert researcher.post(f"/api/batches/{made['id']}/order").status_code == 403
    assert researcher.post(f"/api/batches/{made['id']}/order/made").status_code == 403
    assert labeler.get("/api/batches").status_code == 403
    assert labeler.get(f"/batches/{made['id']}").status_code == 403
    assert labeler.post(f"/api/batches/{made['id']}/state", json={"state": "closed"}).status_code == 403


def test_sampling_queues_a_job_that_knows_its_batch(admin: Client, studio: Studio) -> None:
    wanted = {"name": "Answers", "num_prompts": 5, "overlap": 3, "responses_per_prompt": 3, "flags": ["opinion"]}
    got = admin.post("/api/batches/sampled", json=wanted)
    assert got.status_code == 201, got.text
    assert (got.json()["state"], got.json()["command"], got.json()["round_number"]) == ("queued", "sample", 1)
    with studio.store.read() as session:
        job = jobs.job_of(session, got.json()["id"])
    assert 'model = "tiny"' in job.recipe
    assert "responses_per_prompt = 3" in job.recipe
    plan = job.then["batch"]
    assert (plan["name"], plan["overlap"], plan["settings"]) == ("Answers", 3, {"ratings": False, "flags": ["opinion"]})
    data = studio.workspace.directory / json.loads(json.dumps(_path_of(job)))
    assert data.read_text().count("\n") == 5


def _path_of(job: Job) -> str:
    import tomllib

    return str(tomllib.loads(job.recipe)["prompts"]["path"])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"responses_per_prompt": 1}, 422),
        ({"responses_per_prompt": 10}, 422),
        ({"kind": "pair", "responses_per_prompt": 4}, 409),
        ({"flags": ["nonsense"]}, 409),
        ({"model_id": "nothing"}, 404),
        ({"surprise": 1}, 422),
    ],
)
def test_what_cannot_be_sampled(admin: Client, change: dict[str, object], status: int) -> None:
    got = admin.post("/api/batches/sampled", json={"name": "n", "num_prompts": 2, **change})
    assert got.status_code == status
    assert admin.get("/api/runs").json() == []


def test_sampled_answers_become_a_batch_without_those_that_name_their_model(admin: Client, studio: Studio) -> None:
    """The job's own outcome, on what a sampling run has written."""
    job_id = admin.post("/api/batches/sampled", json={"name": "Answers", "num_prompts": 3}).json()["id"]
    with studio.store.read() as session:
        job = jobs.job_of(session, job_id)

    def answers(number: int, *texts: str) -> str:
        made = tuple(Response(text=text, provenance=Provenance(model="tiny")) for text in texts)
        return Candidates(prompt=Prompt.from_text(f"Question {number}?"), responses=made).to_json()

    directory = jobs.directory_of(studio.workspace, job)
    directory.mkdir(parents=True)
    lines = [answers(0, "Yes.", "No.", "I am SmolLM."), answers(1, "I am SmolLM.", "Fine."), answers(2, "A", "B")]
    (directory / "candidates.jsonl").write_text("\n".join(lines) + "\n")
    Runner(studio.workspace)._use(job)
    with studio.store.read() as session:
        done = jobs.job_of(session, job_id)
        assert done.state == "done"
        assert done.message == (
            "4 responses to 2 prompts; left out because they name their model or its maker: 2, "
            "and prompts of which fewer than two were left: 1"
        )
        batch = session.get_one(Batch, done.then["batch_id"])
        assert (batch.name, batch.round_number, batch.created_by) == ("Answers", 1, admin.user.id)
        items = session.scalars(select(Item).where(Item.batch_id == batch.id)).all()
        assert sorted(len(item.response_ids) for item in items) == [2, 2]
    assert admin.get("/api/counts").json()["unanswered"] == 4


def test_ordering_by_doubt_needs_a_reward_model_and_something_to_order(admin: Client, studio: Studio) -> None:
    made = upload(admin, [ranked(1, "a", "b"), ranked(2, "c", "d"), ranked(3, "e", "f")])
    none = admin.post(f"/api/batches/{made['id']}/order")
    assert (none.status_code, none.json()["error"]) == (409, "there is no reward model yet: train one first")
    with studio.store.write() as session:
        session.add_all(Model(name=name, path=f"runs/{name}", kind="reward", created_at=1.0) for name in ("r1", "r2"))
    got = admin.post(f"/api/batches/{made['id']}/order")
    assert got.status_code == 201, got.text
    with studio.store.read() as session:
        job = jobs.job_of(session, got.json()["id"])
    assert job.stage == "score"
    assert job.then == {"do": "priorities", "batch_id": made["id"]}

    # what the scoring process would have written: the models contradict each other about the third item alone
    raw = {"a": (0, 0), "b": (3, 3), "c": (1, 2), "d": (0, 1), "e": (5, 0), "f": (0, 5)}
    directory = jobs.directory_of(studio.workspace, job)
    directory.mkdir(parents=True)
    rows = []
    for number, texts in enumerate(("ab", "cd", "ef"), start=1):
        for text in texts:
            prompt_id, digest = outcomes.proposing.key_of(Prompt.from_text(f"Q{number}").id, text)
            rows += [
                {"prompt": prompt_id, "response": digest, "model": place, "raw": [value], "score": 0.0}
                for place, value in enumerate(raw[text])
            ]
    (directory / outcomes.SCORES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    Runner(studio.workspace)._use(job)
    items = admin.get(f"/api/batches/{made['id']}/items").json()
    assert items[0]["prompt"] == "Q3"
    assert items[0]["priority"] > 0.9
    assert all(item["priority"] == pytest.approx(0, abs=1e-9) for item in items[1:])

    back = f"/api/batches/{made['id']}/order/made"
    as_html = {"accept": "text/html"}
    assert f'data-api="{back}"' in admin.get(f"/batches/{made['id']}", headers=as_html).text
    assert admin.post(back).status_code == 200
    items = admin.get(f"/api/batches/{made['id']}/items").json()
    assert [(item["prompt"], item["priority"]) for item in items] == [("Q1", 0), ("Q2", 0), ("Q3", 0)]
    assert back not in admin.get(f"/batches/{made['id']}", headers=as_html).text


@pytest.mark.parametrize("source", ["", "sampled", "people", "file"])
def test_every_way_to_a_batch_has_a_page(admin: Client, source: str) -> None:
    got = admin.get(f"/batches/new?source={source}", headers={"accept": "text/html"})
    assert got.status_code == 200
    assert "style=" not in got.text
    assert got.text.count("<form") == (1 if not source else 2)  # the first signs out
