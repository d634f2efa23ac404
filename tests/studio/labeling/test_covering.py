"""Coverage in the app: the job and its command, what its page says, and where people are asked next."""

from __future__ import annotations

import json
import tomllib

import pytest
import tomli_w
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store.tables import Model
from palate.feedback.tasks import batches
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Prompt, Response
from palate.studio.training import jobs, launch
from palate.studio.training.jobs import Runner

HTML = {"accept": "text/html"}
TEXTS = [f"Tell of tea {n}." for n in range(6)] + ["@@@ ### 0000 ][ 99"]


@pytest.fixture
def admin(client_of: ClientOf) -> Client:
    client = client_of("admin")
    client.post("/api/prompts", json={"lines": "\n".join(TEXTS)})
    client.post("/api/rounds/policy", json={"model": "tiny"})
    return client


@pytest.fixture
def reward(studio: Studio) -> str:
    """A reward model whose run says what it learned from; its id."""
    home = studio.workspace.directory
    (home / "runs" / "reward").mkdir(parents=True)
    recipe = {"stage": "reward", "model": "tiny", "data": {"path": "data/learned.jsonl"}}
    (home / "runs" / "reward" / "recipe.toml").write_text(tomli_w.dumps(recipe))
    with studio.store.write() as session:
        model = Model(name="taste", path="runs/reward", kind="reward", created_at=1.0)
        session.add(model)
        session.flush()
        return model.id


def measured(admin: Client, studio: Studio, reward: str, distances: dict[str, float]) -> str:
    """A run that has measured these distances, by prompts' texts; its id."""
    run_id = admin.post("/api/coverage", json={"reward_id": reward}).json()["id"]
    with studio.store.read() as session:
        job = jobs.job_of(session, run_id)
    directory = jobs.directory_of(studio.workspace, job)
    directory.mkdir(parents=True)
    figures = {
        "inside": 0.75,
        "inside_low": 0.5,
        "inside_high": 0.875,
        "reached": 1.0,
        "expected": 0.9,
        "edge": 2.0,
        "distances": list(distances.values()),
        "prompts": [Prompt.from_text(text).id for text in distances],
    }
    (directory / "report.json").write_text(json.dumps(figures))
    (directory / "map.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    Runner(studio.workspace)._use(job)
    return str(run_id)


def batch_of(studio: Studio, *texts: str, kind: str = "ranking") -> str:
    """Two answers to each prompt."""
    with studio.store.write() as session:
        batch = batches.create_batch(session, BatchPlan(name="b", kind=kind), by=None)
        for text in texts:
            prompt = Prompt.from_text(text)
            batches.add_prompts(session, [prompt])
            rows = [batches.add_response(session, prompt.id, Response(text=said)) for said in ("yes", "no")]
            batches.add_item(session, batch, prompt.id, [row.id for row in rows])
        return batch.id


def test_a_job_of_every_prompt_beside_what_the_reward_model_learned_from(
    admin: Client, studio: Studio, reward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process's command, on the tiny model, from the form to the figures of the page."""
    from palate.lm.sources.zoo import load_scalar_model, save
    from palate.rewards.heads import NORMALIZATION_FILE, Normalization

    home = studio.workspace.directory
    scorer = load_scalar_model("tiny", precision="fp32", seed=1)
    save(
        scorer.model,
        scorer.chat,
        home / "runs" / "reward" / "model",
        extra_files={NORMALIZATION_FILE: Normalization().to_json()},
    )
    learned = [{"prompt": f"Tell of tea {n}.", "chosen": f"Much {n}.", "rejected": f"Not {n}."} for n in range(40)]
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "learned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in learned))

    got = admin.post("/api/coverage", json={"reward_id": reward, "seed": 3})
    assert (got.status_code, got.json()["command"], got.json()["state"]) == (201, "coverage", "queued")
    with studio.store.read() as session:
        job = jobs.job_of(session, got.json()["id"])
    directory = jobs.directory_of(studio.workspace, job)
    directory.mkdir()
    (directory / jobs.RECIPE).write_text(job.recipe)
    command = Runner(studio.workspace).command(job)
    monkeypatch.chdir(home)
    assert launch.run(command[command.index("coverage") :]) == 0
    Runner(studio.workspace)._use(job)

    run = admin.get(f"/api/runs/{job.id}").json()
    figures = json.loads((directory / "report.json").read_text())
    assert run["state"] == "done", run["message"]
    assert run["message"].startswith(f"{figures['inside']:.1%} (")
    assert run["message"].endswith(" of 7 prompts are inside what the reward model learned from")
    found = admin.get(f"/api/coverage/{job.id}").json()
    assert (found["reward"], found["prompts"], found["inside"]) == ("taste", 7, figures["inside"])
    assert found["furthest"][0]["prompt"] == TEXTS[-1], "what nobody taught is the furthest"
    assert found["furthest"][0]["distance"] == pytest.approx(max(figures["distances"]) / figures["edge"])
    assert {each["prompt"] for each in found["furthest"]} == set(TEXTS)
    drawn = admin.get(f"/coverage/{job.id}/map.svg")
    assert (drawn.headers["content-type"], drawn.text[:4]) == ("image/svg+xml", "<svg")
    assert "default-src 'none'" in drawn.headers["content-security-policy"]
    assert f"/coverage?run={job.id}" in admin.get(f"/runs/{job.id}", headers=HTML).text


def test_prompts_about_clips_are_not_asked_of_a_model_of_language(admin: Client, studio: Studio, reward: str) -> None:
    with studio.store.write() as session:
        batches.add_prompts(session, [Prompt.from_text("Which pendulum?")], source="clips")
    run_id = admin.post("/api/coverage", json={"reward_id": reward}).json()["id"]
    with studio.store.read() as session:
        recipe = tomllib.loads(jobs.job_of(session, run_id).recipe)
    assert (recipe["reward"], recipe["seed"]) == ("runs/reward", 0)
    lines = (studio.workspace.directory / recipe["prompts"]).read_text().splitlines()
    assert sorted(Prompt.model_validate_json(line).text for line in lines) == sorted(TEXTS)


def test_what_cannot_be_measured_is_refused_before_it_is_queued(admin: Client, studio: Studio, reward: str) -> None:
    with studio.store.write() as session:
        strange = Model(name="foreign", path="runs/foreign", kind="reward", created_at=1.0)
        session.add(strange)
    got = admin.post("/api/coverage", json={"reward_id": strange.id})
    assert (got.status_code, got.json()["error"][:44]) == (409, "foreign does not say what it learned from: i")
    assert admin.post("/api/coverage", json={"reward_id": "none"}).json() == {"error": "no such reward model"}
    assert admin.get("/api/runs").json() == []


def test_without_prompts_there_is_nothing_to_measure(client_of: ClientOf, reward: str) -> None:
    got = client_of("admin").post("/api/coverage", json={"reward_id": reward})
    assert (got.status_code, got.json()["error"]) == (409, "there are no prompts yet: import some first")


def test_the_page_has_the_figures_the_map_and_the_furthest(admin: Client, studio: Studio, reward: str) -> None:
    assert "Nobody" not in admin.get("/coverage", headers=HTML).text
    batch_of(studio, TEXTS[0])
    far = {text: float(n) for n, text in enumerate(TEXTS)}
    run_id = measured(admin, studio, reward, far)
    html = admin.get("/coverage", headers=HTML).text
    assert "75.0%" in html
    assert "50.0% to 87.5%" in html
    assert f'src="/coverage/{run_id}/map.svg"' in html
    assert "style=" not in html
    found = admin.get(f"/api/coverage/{run_id}").json()
    assert [each["prompt"] for each in found["furthest"]] == TEXTS[::-1]
    assert [each["distance"] for each in found["furthest"]] == [3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0]
    assert [each["in_batch"] for each in found["furthest"]] == [False] * 6 + [True]
    assert (found["left"], found["left_outside"]) == (6, 4)
    assert (found["reached"], found["reached_low"]) == (1.0, None)
    later = admin.post("/api/coverage", json={"reward_id": reward}).json()["id"]
    html = admin.get("/coverage", headers=HTML).text
    assert f'href="/runs/{later}"' in html, "another is under way"
    assert f"/coverage/{run_id}/map.svg" in html, "meanwhile the last result stays"


def test_the_furthest_prompts_in_no_batch_are_answered_for_one(admin: Client, studio: Studio, reward: str) -> None:
    batch_of(studio, TEXTS[6])
    run_id = measured(admin, studio, reward, {text: float(n) for n, text in enumerate(TEXTS)})
    wanted = {"name": "Far", "num_prompts": 2, "responses_per_prompt": 3, "overlap": 2}
    got = admin.post(f"/api/coverage/{run_id}/batch", json=wanted)
    assert (got.status_code, got.json()["command"]) == (201, "sample"), got.text
    with studio.store.read() as session:
        job = jobs.job_of(session, got.json()["id"])
    recipe = tomllib.loads(job.recipe)
    lines = (studio.workspace.directory / recipe["prompts"]["path"]).read_text().splitlines()
    assert [Prompt.model_validate_json(line).text for line in lines] == [TEXTS[5], TEXTS[4]]
    assert (recipe["model"], recipe["responses_per_prompt"]) == ("tiny", 3)
    assert (job.then["do"], job.then["batch"]["name"], job.then["batch"]["overlap"]) == ("import", "Far", 2)
    batch_of(studio, *TEXTS[:6])
    none = admin.post(f"/api/coverage/{run_id}/batch", json=wanted)
    assert (none.status_code, none.json()["error"][:41]) == (409, "people are asked about all of these promp")
    assert "All of these prompts are in a batch" in admin.get("/coverage", headers=HTML).text


def test_a_batch_is_put_into_the_order_of_distance_and_back(admin: Client, studio: Studio, reward: str) -> None:
    batch_id = batch_of(studio, *TEXTS[:3], "came later")
    as_html = f"/batches/{batch_id}"
    assert "/order/distance" not in admin.get(as_html, headers=HTML).text
    run_id = measured(admin, studio, reward, {TEXTS[0]: 1.0, TEXTS[1]: 4.0, TEXTS[2]: 3.0})
    html = admin.get(as_html, headers=HTML).text
    assert f'data-api="/api/batches/{batch_id}/order/distance"' in html
    assert f'name="run_id" value="{run_id}"' in html
    got = admin.post(f"/api/batches/{batch_id}/order/distance", json={"run_id": run_id})
    assert got.json() == {"ordered": 3, "unmeasured": 1}
    items = admin.get(f"/api/batches/{batch_id}/items").json()
    assert [(each["prompt"], each["priority"]) for each in items] == [
        (TEXTS[1], 2.0),
        (TEXTS[2], 1.5),
        (TEXTS[0], 0.5),
        ("came later", 0.0),
    ]
    assert admin.post(f"/api/batches/{batch_id}/order/made").status_code == 200
    assert {each["priority"] for each in admin.get(f"/api/batches/{batch_id}/items").json()} == {0.0}
    other = batch_of(studio, "came later too")
    none = admin.post(f"/api/batches/{other}/order/distance", json={"run_id": run_id})
    assert (none.status_code, none.json()["error"][:23]) == (409, "no item that waits has ")


def test_only_a_run_that_has_measured_it_is_asked(
    admin: Client, studio: Studio, reward: str, client_of: ClientOf
) -> None:
    waiting = admin.post("/api/coverage", json={"reward_id": reward}).json()["id"]
    assert admin.get(f"/api/coverage/{waiting}").json() == {"error": "this run has measured nothing yet"}
    assert admin.get(f"/coverage/{waiting}/map.svg").status_code == 404
    other = admin.post("/api/batches/sampled", json={"name": "n", "num_prompts": 1}).json()["id"]
    assert admin.get(f"/api/coverage/{other}").json() == {"error": "this run has measured no coverage"}
    run_id = measured(admin, studio, reward, {TEXTS[0]: 1.0})
    researcher, labeler = client_of("researcher"), client_of("labeler")
    assert researcher.get(f"/api/coverage/{run_id}").status_code == 200
    page = researcher.get("/coverage", headers=HTML)
    assert (page.status_code, "data-api" in page.text) == (200, False)
    assert researcher.post("/api/coverage", json={"reward_id": reward}).status_code == 403
    assert researcher.post(f"/api/coverage/{run_id}/batch", json={"name": "n", "num_prompts": 1}).status_code == 403
    assert researcher.post("/api/batches/b/order/distance", json={"run_id": run_id}).status_code == 403
    assert labeler.get(f"/api/coverage/{run_id}").status_code == 403
    assert labeler.get(f"/coverage/{run_id}/map.svg").status_code == 403
