"""Comparisons from the web app: what can be ticked, what is refused and why, and one for real to its report."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from sqlalchemy import select
from tests.studio.conftest import Client, ClientOf, Studio
from tests.studio.training.test_runs import Desk

from palate.experiments.methods import read_comparison
from palate.feedback.store.tables import Job, Model, User
from palate.studio.training import jobs, launch, outcomes, progress
from palate.studio.training.jobs import Runner
from palate.studio.training.recipebook import ComparisonRecipe, Plan

HTML = {"accept": "text/html"}


@pytest.fixture
def desk(studio: Studio, client_of: ClientOf) -> Desk:
    return Desk(studio, client_of("admin"))


def finished(desk: Desk, command: str, **changes: Any) -> str:
    """A run of a starter whose data and model are filled in, as it is when it has ended well."""
    run = desk.client.post("/api/runs", json={"recipe": command, "model_id": desk.tiny}).json()
    with desk.studio.store.write() as session:
        job = jobs.job_of(session, run["id"])
        job.recipe = tomli_w.dumps(tomllib.loads(job.recipe) | changes)
        job.state, job.started_at, job.ended_at = "done", 100.0, 190.0
    return str(run["id"])


def reward_model(desk: Desk, name: str = "judge", path: str = "tiny") -> str:
    with desk.studio.store.write() as session:
        model = Model(name=name, path=path, kind="reward", created_at=1.0)
        session.add(model)
        session.flush()
        return model.id


def form(desk: Desk, *run_ids: str, judge: str, **more: Any) -> dict[str, Any]:
    return {"run_ids": run_ids, "judge_id": judge, "baseline_id": desk.tiny, **more}


def shown(client: Client, path: str = "/runs/compare") -> str:
    return client.get(path, headers=HTML).text


def test_what_is_missing_is_said_first(desk: Desk) -> None:
    desk.judge("ann", 6)
    assert "no run has made a model that answers" in shown(desk.client)
    finished(desk, "dpo")
    assert "there is no reward model to judge by" in shown(desk.client)
    reward_model(desk)
    assert "cannot start yet" not in shown(desk.client)


def test_runs_that_made_a_model_which_answers_can_be_ticked(desk: Desk) -> None:
    """With what they started and learned from, by the names that models have here."""
    desk.judge("ann", 6)
    good = finished(desk, "dpo", rewards=[{"ensemble": ["runs/a", "runs/b"]}, {"length": 3.0}])
    others = [finished(desk, "reward")]
    with desk.studio.store.write() as session:
        for state in ("failed", "running"):
            job = Job(name=state, stage="dpo", recipe="", directory=f"runs/{state}", then={}, created_at=1.0)
            job.state = state
            session.add(job)
            session.flush()
            others.append(job.id)
    reward_model(desk, "kind", "runs/a")
    html = shown(desk.client)
    assert f'name="run_ids" value="{good}"' in html
    assert not [other for other in others if other in html]
    assert "<bdi>tiny</bdi>" in html
    assert "<bdi>kind</bdi>, <bdi>runs/b</bdi>" in html
    assert "1 min 30 s" in html
    assert "One that none of them learned from is the better judge" in html
    assert 'href="/runs/compare"' in shown(desk.client, "/runs/new")


def test_a_comparison_holds_the_recipes_as_they_were_run(desk: Desk, tmp_path: Path) -> None:
    desk.judge("ann", 6)
    first, second = finished(desk, "dpo"), finished(desk, "dpo", beta=0.5)
    judge = reward_model(desk)
    got = desk.client.post("/api/comparisons", json=form(desk, first, second, first, judge=judge, seeds=2))
    assert got.status_code == 201, got.text
    made = got.json()
    assert (made["command"], made["state"], made["step"], made["total"]) == ("compare", "queued", 0, 4)
    with desk.studio.store.read() as session:
        job = jobs.job_of(session, made["id"])
        recipes = [tomllib.loads(jobs.job_of(session, each).recipe) for each in (first, second)]
    whole = ComparisonRecipe.model_validate(tomllib.loads(job.recipe))
    assert whole.methods == {"dpo": recipes[0], "dpo-2": recipes[1]}
    assert (whole.seeds, whole.allow_different) == (2, ())
    prompts = desk.studio.workspace.directory / whole.evaluation["prompts"]["path"]
    assert len(prompts.read_text().splitlines()) == 6
    assert (whole.evaluation["baseline"], whole.evaluation["judge"]) == ("tiny", {"model": "tiny"})

    # its process runs one command of the command line, which finds every recipe in a file of its own
    (tmp_path / "job.toml").write_text(job.recipe)
    command = launch.recipes_apart(tmp_path / "job.toml", tmp_path / "run")
    assert command[0] == "compare"
    assert command[3:] == ["--eval", str(tmp_path / "run/evaluation.toml"), "--seeds", "2", "--out", f"{tmp_path}/run"]
    methods, evaluation = read_comparison(command[1:3], Path(command[4]))
    assert [(method.name, method.recipe(7).beta, method.recipe(7).seed) for method in methods] == [
        ("dpo", recipes[0]["beta"], 7),
        ("dpo-2", 0.5, 7),
    ]
    assert (evaluation.baseline, evaluation.sampling.max_new_tokens) == ("tiny", 8)


def test_what_cannot_be_compared_is_refused_before_it_is_queued(desk: Desk, client_of: ClientOf) -> None:
    desk.judge("ann", 6)
    first, second = finished(desk, "dpo"), finished(desk, "dpo", model="runs/other", temperature=1.0)
    only_judges, judge = finished(desk, "reward"), reward_model(desk)

    def refused(*run_ids: str, **more: Any) -> tuple[int, str]:
        got = desk.client.post("/api/comparisons", json=form(desk, *run_ids, judge=judge) | more)
        return got.status_code, str(got.json().get("error"))

    status, why = refused(first, second)
    assert status == 409
    assert why.startswith("model: dpo has tiny, dpo-2 has runs/other, so their difference")
    assert why.endswith("choose others, or say below that they may differ in it")
    assert refused(first, second, allow_different=["model"])[1].startswith("temperature: dpo has 0.7, dpo-2 has 1")
    assert refused(first, only_judges) == (409, "reward has made no model that answers: choose runs that have")
    assert refused("nothing") == (404, "no such run")
    assert refused(first, judge_id=desk.tiny) == (404, "no such reward model")
    assert refused(first, baseline_id=judge) == (404, "no such model")
    assert refused() == (409, "tick the runs that are to be compared")
    for wrong in ({"run_ids": ["x"] * 13}, {"seeds": 0}, {"seeds": 99}, {"allow_different": ["luck"]}, {"more": 1}):
        assert refused(first, **wrong)[0] == 422
    assert client_of("researcher").post("/api/comparisons", json=form(desk, first, judge=judge)).status_code == 403
    with desk.studio.store.read() as session:
        assert "compare" not in session.scalars(select(Job.stage)).all()
    allowed = form(desk, first, second, judge=judge, allow_different=["model", "temperature"])
    made = desk.client.post("/api/comparisons", json=allowed).json()
    with desk.studio.store.read() as session:
        job = jobs.job_of(session, made["id"])
    file = desk.studio.workspace.directory / "job.toml"
    file.write_text(job.recipe)
    command = launch.recipes_apart(file, desk.studio.workspace.directory / "run")
    assert command[-3:] == ["--allow-different", "model", "temperature"]


def test_a_comparison_is_as_far_as_its_runs(tmp_path: Path) -> None:
    recipe = {"seeds": 2, "methods": {"dpo": {}, "ppo": {}}}
    assert progress.progress_of_comparison(tmp_path, recipe).total == 4
    for name, said in (("dpo/seed-0", '{"ended": "today"}'), ("dpo/seed-1", '{"ended": null}'), ("ppo/seed-0", "{")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "lineage.json").write_text(said)
    assert progress.progress_of_comparison(tmp_path, recipe).step == 1


def row(method: str, rate: float | None, minus: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"method": method, "win_rate": rate, "minus_first": minus, "minus_first_high": high}


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            {
                "at_kl": 3.14159,
                "at_equal_kl": [row("ppo", 0.625), row("dpo", 0.6, -0.025, 0.01), row("sft", 0.4, -0.225, -0.1)],
                "failed": [],
            },
            "win rates at a KL of 3.14: ppo 0.625; dpo 0.6, too close to the first to tell; sft 0.4",
        ),
        (
            {"at_kl": 1.0, "at_equal_kl": [row("ppo", 0.5), row("best of n", None)], "failed": [{"method": "dpo"}]},
            "win rates at a KL of 1: ppo 0.5; runs that failed: 1",
        ),
        ({"at_kl": None, "failed": []}, "there is no KL that every run comes by: see the report"),
    ],
)
def test_a_comparison_says_who_was_best_and_what_is_not_known(
    figures: dict[str, Any], message: str, desk: Desk
) -> None:
    with desk.studio.store.write() as session:
        plan = Plan(name="compare", command="compare", recipe="seeds = 1\n[methods.ppo]\n", then={"do": "compared"})
        job = jobs.enqueue(session, desk.studio.workspace, plan, by=None)
    directory = jobs.directory_of(desk.studio.workspace, job)
    directory.mkdir()
    (directory / "report.json").write_text(json.dumps(figures))
    Runner(desk.studio.workspace)._use(job)
    done = desk.client.get(f"/api/runs/{job.id}").json()
    assert (done["state"], done["message"]) == ("done", message)
    assert outcomes.prepare(desk.studio.workspace, job) is not None


def test_from_finished_runs_to_a_report(desk: Desk) -> None:
    """For real: two recipes of DPO, one seed, in a process of its own."""
    desk.judge("ann", 12)
    fast = {"optimizer": {"learning_rate": 1e-3}}
    runs = finished(desk, "dpo", **fast), finished(desk, "dpo", beta=0.5, **fast)
    made = desk.client.post("/api/comparisons", json=form(desk, *runs, judge=reward_model(desk), seeds=1)).json()
    desk.run_all()
    done = desk.client.get(f"/api/runs/{made['id']}").json()
    assert (done["state"], done["step"], done["total"]) == ("done", 2, 2), done
    assert done["message"].startswith("win rates at a KL of "), done
    assert "dpo-2 0." in done["message"]
    html = shown(desk.client, f"/runs/{made['id']}")
    assert "2 of 2" in html
    assert "runs of all methods and seeds" in html
    assert "== dpo-2, seed 0: run 2 of 2" in html
    report = desk.client.get(f"/runs/{made['id']}/report")
    assert report.status_code == 200
    assert "At equal KL" in report.text
    assert report.text.count("<svg") >= 2
    assert "What differs between the recipes" in report.text
    chapter = shown(desk.client, "/rounds")
    assert chapter.count("Methods compared") == 1
    assert done["message"] in chapter
    with desk.studio.store.read() as session:
        assert not session.scalars(select(Model).where(Model.job_id == made["id"])).all(), "it makes no model"
        assert session.get_one(User, desk.client.user.id).id == jobs.job_of(session, made["id"]).created_by
