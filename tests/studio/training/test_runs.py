"""Runs from named recipes: what goes in, what is shown, who may start them, and the whole loop for real."""

from __future__ import annotations

import json
import re
import shutil
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from tests.studio.conftest import PASSWORD, Client, ClientOf, Studio

from palate.errors import LabelsNeededError
from palate.evals.credit import CREDIT_CSS
from palate.feedback.store import people, rounds
from palate.feedback.store.tables import Batch, Item, Job, Model, Review, User
from palate.feedback.tasks import batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import DemonstrationForm, RankingForm
from palate.objectives.acquisition import uncertainty_one_by_one
from palate.records import Prompt, Ranking, Response
from palate.studio.training import jobs, launch, outcomes, recipebook
from palate.studio.training.jobs import Runner
from palate.studio.training.processes import Process
from palate.studio.training.recipebook import Plan

PATIENCE = 300.0


class Desk:
    """An admin's browser, and people who judge without one."""

    def __init__(self, studio: Studio, client: Client) -> None:
        self.studio, self.client = studio, client
        shutil.rmtree(studio.workspace.recipes)
        studio.workspace.recipes.mkdir()
        recipebook.write_starters(studio.workspace.recipes, "tiny")
        client.post("/api/rounds/policy", json={"model": "tiny"})
        self.tiny = str(client.get("/api/models").json()[0]["id"])
        self.batch: Batch | None = None

    def judge(self, name: str, count: int, *, first: int = 0, overlap: int = 9, **columns: object) -> User:
        """A labeler who likes long answers ranks items of one batch, from a number on."""
        with self.studio.store.write() as session:
            user = people.create_user(session, name, PASSWORD, "labeler")
            for key, value in columns.items():
                setattr(user, key, value)
            if self.batch is None:
                self.batch = batches.create_batch(session, BatchPlan(name="b", overlap=overlap), by=None)
            for number in range(first, first + count):
                item = self._item(session, number)
                task = queue._task(session, user, item, time.time())
                queue.take_place(session, item.id)
                lengths = [len(responses.text) for responses in judgements.responses_of(session, item)]
                by_place = [lengths[index] for index in task.shown_order]
                ranks = tuple(1 + sorted(by_place, reverse=True).index(length) for length in by_place)
                form = RankingForm(ranks=ranks, seconds=60, confirmed=True)
                judgements.submit_ranking(session, user, task, form)
        return user

    def _item(self, session: object, number: int) -> Item:
        prompt = Prompt.from_text(f"Question {number}?")
        assert self.batch is not None
        found = session.scalars(select(Item).where(Item.prompt_id == prompt.id)).first()  # type: ignore[attr-defined]
        if found is not None:
            return found  # type: ignore[no-any-return]
        batches.add_prompts(session, [prompt])  # type: ignore[arg-type]
        rows = [
            batches.add_response(session, prompt.id, Response(text="x" * (4 * k + 1)))  # type: ignore[arg-type]
            for k in range(3)
        ]
        return batches.add_item(session, self.batch, prompt.id, [row.id for row in rows])  # type: ignore[arg-type]

    def run_all(self) -> None:
        """Look after the jobs until none is left."""
        runner = Runner(self.studio.workspace)
        deadline = time.monotonic() + PATIENCE
        while any(run["state"] in ("queued", "running") for run in self.client.get("/api/runs").json()):
            assert time.monotonic() < deadline, "it takes too long"
            runner.tick()
            time.sleep(0.05)
        runner.stop()


@pytest.fixture
def desk(studio: Studio, client_of: ClientOf) -> Desk:
    return Desk(studio, client_of("admin"))


def test_every_starter_recipe_can_be_used_and_says_what_it_is_for(desk: Desk) -> None:
    found = desk.client.get("/api/recipes").json()
    assert {each["name"]: each["command"] for each in found} == {
        "agent": "agent",
        "best_of_n": "best-of-n",
        "dpo": "dpo",
        "judge": "judge",
        "kto": "kto",
        "ppo": "ppo",
        "pretrain": "pretrain",
        "reinforce": "reinforce",
        "revise": "revise",
        "reward": "reward",
        "rounds": "rounds",
        "sample": "sample",
        "sft": "sft",
        "verified": "reinforce",
        "win_rate": "eval",
    }
    assert all(each["about"].endswith(".") and not each["problem"] for each in found)


def test_starters_that_came_later_reach_a_workspace_once(tmp_path: Path) -> None:
    """What people have changed stays, what they have deleted stays away, a recipe of their own is not written over."""
    for name in recipebook.FIRST_STARTERS:  # a workspace from before there were lists
        (tmp_path / f"{name}.toml").write_text("changed")
    (tmp_path / "dpo.toml").unlink()
    later = recipebook.write_starters(tmp_path, "tiny", given=recipebook.FIRST_STARTERS)
    assert {"kto", "constitutions/starter"} <= set(later)
    assert "KTO" in (tmp_path / "kto.toml").read_text()
    assert {path.read_text() for path in tmp_path.glob("*.toml") if path.stem not in later} == {"changed"}
    (tmp_path / "kto.toml").unlink()
    assert recipebook.write_starters(tmp_path, "tiny", given=recipebook.FIRST_STARTERS) == []
    assert not (tmp_path / "kto.toml").exists()
    assert not (tmp_path / "dpo.toml").exists()
    list_of = tmp_path / recipebook.GIVEN_FILE
    list_of.write_text(list_of.read_text().replace("kto\n", ""))  # as if a later version had brought it
    (tmp_path / "kto.toml").write_text("my own")
    assert recipebook.write_starters(tmp_path, "tiny") == []
    assert (tmp_path / "kto.toml").read_text() == "my own"


def test_starters_are_sized_for_the_model(tmp_path: Path) -> None:
    for model in ("smollm2-135m", "tiny", "some/other"):
        (tmp_path / model.replace("/", "-")).mkdir()
        recipebook.write_starters(tmp_path / model.replace("/", "-"), model)

    def says(model: str) -> dict[str, object]:
        return tomllib.loads((tmp_path / model / "ppo.toml").read_text())

    assert says("smollm2-135m")["frozen_layers"] == 26
    assert says("tiny")["frozen_layers"] == 1
    assert says("tiny")["sampling"] == {"temperature": 0.7, "max_new_tokens": 8}
    assert "frozen_layers" not in says("some-other")


def test_a_recipe_that_cannot_be_used_says_why_and_spoils_no_other(desk: Desk) -> None:
    folder = desk.studio.workspace.recipes
    (folder / "broken.toml").write_text("stage = ")
    (folder / "odd.toml").write_text('# Odd.\nstage = "dance"\n')
    (folder / "typo.toml").write_text('stage = "sft"\nepoks = 3\n')
    found = {each["name"]: each["problem"] for each in desk.client.get("/api/recipes").json()}
    assert found["broken"].startswith("cannot be read")
    assert "say which stage" in found["odd"]
    assert found["reward"] == ""
    desk.judge("ann", 4)
    with desk.studio.store.write() as session:
        _demonstrate(session, desk.client.user)
    got = desk.client.post("/api/runs", json={"recipe": "typo", "model_id": desk.tiny})
    assert (got.status_code, got.json()["error"]) == (400, "typo.toml: unknown key 'epoks'; did you mean 'epochs'?")


@pytest.mark.parametrize("name", ["nothing", "../palate", "sft.toml", "/etc/passwd", ""])
def test_only_recipes_of_the_folder_can_be_named(desk: Desk, name: str) -> None:
    got = desk.client.post("/api/runs", json={"recipe": name, "model_id": desk.tiny})
    assert got.status_code in (404, 422)
    assert desk.client.get("/api/runs").json() == []


def test_only_an_admin_starts_stops_and_resumes(desk: Desk, client_of: ClientOf) -> None:
    desk.judge("ann", 10)
    run_id = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny}).json()["id"]
    researcher, reviewer = client_of("researcher"), client_of("reviewer")
    assert researcher.get(f"/api/runs/{run_id}").json()["state"] == "queued"
    for path in ("/api/runs", f"/api/runs/{run_id}/cancel", f"/api/runs/{run_id}/resume"):
        assert researcher.post(path, json={"recipe": "reward", "model_id": desk.tiny}).status_code == 403
    assert reviewer.get("/api/runs").status_code == 403
    assert researcher.get("/runs/new").status_code == 403
    assert desk.client.post(f"/api/runs/{run_id}/cancel").json()["state"] == "cancelled"
    assert desk.client.post(f"/api/runs/{run_id}/resume").json()["state"] == "queued"


def test_what_is_left_out_is_counted_by_its_reason_before_anything_starts(desk: Desk) -> None:
    desk.judge("ann", 6, weight=1.5)
    desk.judge("bob", 3, is_held_out=True)
    cyd = desk.judge("cyd", 2, first=20)
    with desk.studio.store.write() as session:
        of_cyd = session.scalars(judgements.current().where(judgements.Judgement.user_id == cyd.id)).all()
        session.get_one(judgements.Task, of_cyd[0].task_id).is_surplus = True
        discard = Review(item_id=of_cyd[1].item_id, reviewer_id=cyd.id, decision="discard", created_at=time.time())
        session.add(discard)
        thumb = Ranking(prompt=Prompt.from_text("hi"), responses=(Response(text="yo"),), ranks=(1,), ratings=(7,))
        record = thumb.model_dump(mode="json", exclude_defaults=True)
        judgements.append(session, "thumb", record, session.get_one(User, cyd.id))
        judgements.append(session, "thumb", record, session.get_one(User, cyd.id), consent=False)
    got = desk.client.get("/api/recipes/reward/preview").json()
    assert (got["count"], got["people"], got["problem"]) == (6, 1, "")
    assert got["weights"] == {"ann": 1.5}
    assert got["left_out"] == {
        "by a held-out labeler": 3,
        "handed in too late to count": 1,
        "discarded or settled by a reviewer": 1,
        "a thumb, which compares nothing": 1,
        "no consent to training": 1,
    }
    html = desk.client.get("/runs/new?recipe=reward", headers={"accept": "text/html"}).text
    assert "3: by a held-out labeler" in html


def test_without_data_or_reward_model_it_says_what_is_missing(desk: Desk) -> None:
    def problem(recipe: str) -> str:
        return str(desk.client.get(f"/api/recipes/{recipe}/preview").json()["problem"])

    assert problem("sft") == "there are no demonstrations yet"
    assert problem("reward") == "there are no rankings yet"
    assert problem("ppo") == "there are no prompts yet"
    desk.client.post("/api/prompts", json={"lines": "one\ntwo"})
    assert problem("ppo") == "there is no reward model yet: train one first"
    refused = desk.client.post("/api/runs", json={"recipe": "ppo", "model_id": desk.tiny})
    assert (refused.status_code, refused.json()["error"][:21]) == (409, "choose a reward model")
    assert desk.client.post("/api/runs", json={"recipe": "sft", "model_id": desk.tiny}).status_code == 409
    assert desk.client.post("/api/runs", json={"recipe": "reward", "model_id": "x"}).status_code == 404


def test_a_job_has_everything_filled_in(desk: Desk) -> None:
    desk.judge("ann", 30, weight=0.5)
    run = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny, "seed": 7}).json()
    with desk.studio.store.read() as session:
        job = jobs.job_of(session, run["id"])
    tree = tomllib.loads(job.recipe)
    assert (tree["model"], tree["seed"], tree["labeler_weights"]) == ("tiny", 7, {"ann": 0.5})
    assert (tree["frozen_layers"], tree["epochs"]) == (1, 2)
    path = desk.studio.workspace.directory / tree["data"]["path"]
    rows = [Ranking.model_validate_json(line) for line in path.read_text().splitlines()]
    assert len(rows) == 30
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["count"], card["kind"], card["people"]) == (30, "rankings", 1)
    assert card["sha256"].startswith(path.stem.rpartition("-")[2])
    again = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny}).json()
    with desk.studio.store.read() as session:
        assert tomllib.loads(jobs.job_of(session, again["id"]).recipe)["data"] == tree["data"]  # the same file


def test_little_data_gets_a_larger_share_held_out(desk: Desk) -> None:
    """Of these two prompts neither falls into the first tenth, and one into the first half."""
    desk.judge("ann", 2)
    got = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny})
    if got.status_code == 201:
        with desk.studio.store.read() as session:
            assert tomllib.loads(jobs.job_of(session, got.json()["id"]).recipe)["holdout"]["fraction"] > 0.1
    else:
        assert "too few prompts" in got.json()["error"]


def test_one_prompt_cannot_teach_and_test(desk: Desk) -> None:
    desk.judge("ann", 1)
    got = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny})
    assert got.status_code == 409
    assert "too few prompts" in got.json()["error"]


def test_several_reward_models_share_the_reward(desk: Desk) -> None:
    desk.client.post("/api/prompts", json={"lines": "\n".join(f"Q{n}?" for n in range(30))})
    with desk.studio.store.write() as session:
        session.add_all(models := [Model(name=n, path=f"runs/{n}", kind="reward", created_at=1.0) for n in "ab"])
        session.flush()
        ids = [model.id for model in models]
    recipe = desk.studio.workspace.recipes / "ppo.toml"
    recipe.write_text("rewards = [{ length = 10.0, weight = 0.1 }]\n" + recipe.read_text())
    run = desk.client.post("/api/runs", json={"recipe": "ppo", "model_id": desk.tiny, "reward_ids": ids}).json()
    with desk.studio.store.read() as session:
        tree = tomllib.loads(jobs.job_of(session, run["id"]).recipe)
    assert tree["rewards"] == [
        {"model": "runs/a", "weight": 0.5},
        {"model": "runs/b", "weight": 0.5},
        {"length": 10.0, "weight": 0.1},
    ]
    card = json.loads((desk.studio.workspace.directory / tree["prompts"]["path"]).with_suffix(".json").read_text())
    kept = card["left_out"]["kept for evaluation"]
    assert card["count"] + kept == 30
    assert kept > 0


def heads_of(directory: Path, *names: str) -> None:
    """A reward model's directory, as far as anybody here looks into it."""
    (directory / "model").mkdir(parents=True)
    heads = [{"objective": name, "flag": name if name == "made_up" else ""} for name in names]
    (directory / "model" / "heads.json").write_text(json.dumps(heads), encoding="utf-8")


def test_where_reward_models_disagree_the_reward_may_be_cautious(desk: Desk) -> None:
    desk.client.post("/api/prompts", json={"lines": "\n".join(f"Q{n}?" for n in range(30))})
    with desk.studio.store.write() as session:
        names = ("one", "other", "four")
        session.add_all(models := [Model(name=n, path=f"runs/{n}", kind="reward", created_at=1.0) for n in names])
        session.flush()
        one, other, four = (model.id for model in models)
    heads_of(desk.studio.workspace.directory / "runs" / "four", "made_up", "good", "good", "kind")

    def rewards(*ids: str) -> object:
        run = {"recipe": "ppo", "model_id": desk.tiny, "reward_ids": ids, "aggregation": "min"}
        got = desk.client.post("/api/runs", json=run)
        if got.status_code != 201:
            return got.json()["error"]
        with desk.studio.store.read() as session:
            return tomllib.loads(jobs.job_of(session, got.json()["id"]).recipe)["rewards"]

    assert rewards(one, other) == [{"ensemble": ["runs/one", "runs/other"], "aggregation": "min"}]
    assert rewards(four) == [{"ensemble": ["runs/four"], "aggregation": "min"}]
    assert rewards(one) == "one reward model with one head cannot disagree with itself: choose several, or the mean"
    page = desk.client.get("/runs/new?recipe=ppo", headers={"accept": "text/html"}).text
    assert "the mean minus one standard deviation" in page
    assert "aggregation" not in desk.client.get("/runs/new?recipe=win_rate", headers={"accept": "text/html"}).text


def test_heads_are_chosen_where_a_reward_model_is_trained_and_order_what_to_label_next(desk: Desk) -> None:
    """For real: three heads, which then say of every item nobody has judged how far they contradict each other."""
    desk.judge("ann", 12)
    page = desk.client.get("/runs/new?recipe=reward", headers={"accept": "text/html"}).text
    assert 'name="heads" type="number" value="1"' in page
    run = {"recipe": "reward", "model_id": desk.tiny, "heads": 3}
    refused = desk.client.post("/api/runs", json=run | {"recipe": "sft"})
    assert (refused.status_code, refused.json()["error"][:27]) == (409, "heads are for reward models")
    assert desk.client.post("/api/runs", json=run | {"heads": 0}).status_code == 422
    made = desk.client.post("/api/runs", json=run).json()
    with desk.studio.store.write() as session:
        assert tomllib.loads(jobs.job_of(session, made["id"]).recipe)["heads"] == 3
        assert desk.batch is not None
        for number in (40, 41):
            desk._item(session, number)
    desk.run_all()
    got = desk.client.get(f"/batches/{desk.batch.id}", headers={"accept": "text/html"}).text
    assert "It has 3 heads: items on which they contradict each other come first, each given those before it." in got
    ordered = desk.client.post(f"/api/batches/{desk.batch.id}/order").json()
    desk.run_all()
    with desk.studio.store.read() as session:
        directory = jobs.directory_of(desk.studio.workspace, jobs.job_of(session, ordered["id"]))
        items = {item.prompt_id: item.priority for item in session.scalars(select(Item))}
    rows = [json.loads(line) for line in (directory / outcomes.SCORES).read_text().splitlines()]
    assert {len(row["raw"]) for row in rows} == {3}
    assert all(row["spread"] > 0 for row in rows)
    asked = [Prompt.from_text(f"Question {number}?").id for number in (40, 41)]
    raw = [np.array([row["raw"] for row in rows if row["prompt"] == prompt]).T for prompt in asked]  # heads, responses
    assert [items[prompt] for prompt in asked] == pytest.approx(uncertainty_one_by_one(raw), rel=1e-6)


def thumbs(desk: Desk, count: int) -> None:
    """What people said of answers in the chat, two of them without leave to learn from it."""
    with desk.studio.store.write() as session:
        user = session.get_one(User, desk.client.user.id)
        for number in range(count):
            thumb = Ranking(
                prompt=Prompt.from_text(f"How are you, {number}?"),
                responses=(Response(text="Fine." if number % 2 else "Go away."),),
                ranks=(1,),
                ratings=(7.0 if number % 2 else 1.0,),
                labeler=user.name,
            )
            record = thumb.model_dump(mode="json", exclude_defaults=True)
            judgements.append(session, "thumb", record, user, consent=number >= 2)


def test_thumbs_of_the_chat_train_a_model(desk: Desk) -> None:
    """An admin finds the recipe, sees what it would learn from, starts it, and has a model."""
    assert desk.client.get("/api/recipes/kto/preview").json()["problem"] == "there are no thumbs yet"
    thumbs(desk, 16)
    desk.judge("ann", 3)  # rankings, which are none of its business
    got = desk.client.get("/api/recipes/kto/preview").json()
    assert (got["kind"], got["count"], got["people"], got["problem"]) == ("thumbs", 14, 1, "")
    assert got["left_out"] == {"no consent to training": 2}
    listed = desk.client.get("/runs/new", headers={"accept": "text/html"}).text
    assert "Train on thumbs (KTO)" in listed
    page = desk.client.get("/runs/new?recipe=kto", headers={"accept": "text/html"}).text
    assert "What it learns from" in page
    assert "Thumbs" in page
    assert "Rewarded by" not in page

    run = desk.client.post("/api/runs", json={"recipe": "kto", "model_id": desk.tiny, "seed": 3}).json()
    desk.run_all()
    done = desk.client.get(f"/api/runs/{run['id']}").json()
    assert (done["state"], done["command"]) == ("done", "kto")
    with desk.studio.store.read() as session:
        job = jobs.job_of(session, run["id"])
        made = session.scalars(select(Model).where(Model.job_id == job.id)).one()
        assert (made.kind, made.parent_id) == ("policy", desk.tiny)
        directory = jobs.directory_of(desk.studio.workspace, job)
    path = desk.studio.workspace.directory / tomllib.loads(job.recipe)["data"]["path"]
    learned = [Ranking.model_validate_json(line) for line in path.read_text().splitlines()]
    assert [ranking.ratings for ranking in learned] == [(1.0,), (7.0,)] * 7
    report = json.loads((directory / "report.json").read_text())
    assert 0 < report["thumbs"] < 14  # some are held out
    rows = desk.client.get(f"/api/runs/{run['id']}/metrics").json()
    assert rows[0]["kto/loss"] == pytest.approx(0.5, abs=1e-4)
    shown = desk.client.get(f"/runs/{run['id']}", headers={"accept": "text/html"}).text
    assert "Thumbs told apart" in shown


@pytest.fixture
def finished(desk: Desk) -> str:
    """A run whose directory was written by hand."""
    with desk.studio.store.write() as session:
        plan = Plan(name="ppo <b>", command="ppo", recipe="", then={})
        job = jobs.enqueue(session, desk.studio.workspace, plan, by=session.get_one(User, desk.client.user.id))
        job.state, job.started_at, job.ended_at = "done", 10.0, 100.0
    directory = jobs.directory_of(desk.studio.workspace, job)
    directory.mkdir()
    rows = [{"step": n, "objective/score": n / 10, "objective/kl": n / 5, "policy/entropy": 2.0} for n in range(30)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 30, "torn')
    said = [{"step": n, "prompt": "p", "response": f"<script>alert({n})</script>", "score": 0.5} for n in range(30)]
    (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    record = {"stage": "ppo", "ended": None, "total_steps": 40}
    (directory / "lineage.json").write_text(json.dumps(record))
    (directory / launch.LOG).write_text("step 30/40\n<img src=x onerror=alert(1)>\n")
    (directory / "report.html").write_text("<!doctype html><h1>R</h1><script>alert(1)</script>")
    return job.id


def test_the_page_of_a_run_shows_curves_samples_and_log(desk: Desk, finished: str) -> None:
    html = desk.client.get(f"/runs/{finished}", headers={"accept": "text/html"}).text
    assert "30 of 40" in html
    for title in ("Score", "KL to the reference", "Entropy"):
        assert f"<figcaption>{title}</figcaption>" in html
    assert "<figcaption>Loss</figcaption>" not in html
    assert [f"Step {n}</summary>" in html for n in (29, 23, 17, 12, 6, 0, 1)] == [True] * 6 + [False]
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "style=" not in html


def test_a_script_gets_the_changing_parts(desk: Desk, finished: str) -> None:
    got = desk.client.get(f"/runs/{finished}/live").json()
    assert (got["state"], got["step"]) == ("done", 30)
    assert sorted(got["html"]) == ["credit", "curves", "log", "samples", "status"]
    assert "<script>alert" not in json.dumps(got["html"])
    assert desk.client.get("/runs/live").json()["busy"] is False
    metrics = desk.client.get(f"/api/runs/{finished}/metrics").json()
    assert (len(metrics), metrics[-1]["objective/score"]) == (30, 2.9)


def test_the_latest_responses_are_shown_token_by_token(desk: Desk, finished: str) -> None:
    page = {"accept": "text/html"}
    assert "Credit, token by token" not in desk.client.get(f"/runs/{finished}", headers=page).text
    with desk.studio.store.read() as session:
        path = jobs.directory_of(desk.studio.workspace, jobs.job_of(session, finished)) / "samples.jsonl"
    tokens = ["<script>", "alert", "</script>", "<|im_end|>"]
    numbers = {name: [0.5, -1.0, 0.0, 2.0] for name in ("reward", "kl", "advantage")}
    with path.open("w") as file:
        for step in range(30, 35):
            row = {"step": step, "prompt": "p", "response": "r", "score": 0.5, "credit": {"tokens": tokens, **numbers}}
            file.write(json.dumps(row) + "\n")
    html = desk.client.get(f"/runs/{finished}", headers=page).text
    part = desk.client.get(f"/runs/{finished}/live").json()["html"]["credit"]
    assert part.strip() in html
    assert part.index("<details open><summary>Step 34") < part.index("<details><summary>Step 32")
    assert part.count("<details") == 3
    assert '<li tabindex="0" class="an4 rn4 kn4">alert<' in part
    assert "<script>" not in part
    assert "style=" not in html


def test_credit_looks_as_it_does_in_reports(desk: Desk, client_of: ClientOf, finished: str) -> None:
    got = desk.client.get("/runs/credit.css")
    assert got.headers["content-type"].startswith("text/css")
    assert got.text == CREDIT_CSS
    assert (
        '<link rel="stylesheet" href="/runs/credit.css">'
        in desk.client.get(f"/runs/{finished}", headers={"accept": "text/html"}).text
    )
    assert client_of("labeler").get("/runs/credit.css").status_code == 403


def test_a_comparison_leaves_its_figure(desk: Desk) -> None:
    with desk.studio.store.write() as session:
        plan = Plan(name="win rate", command="eval", recipe="", then={"do": "measure"})
        job = jobs.enqueue(session, desk.studio.workspace, plan, by=None)
    directory = jobs.directory_of(desk.studio.workspace, job)
    directory.mkdir()
    (directory / "report.json").write_text('{"win_rate": 0.6251, "win_rate_low": 0.5, "win_rate_high": 0.75}')
    Runner(desk.studio.workspace)._use(job)
    done = desk.client.get(f"/api/runs/{job.id}").json()
    assert (done["state"], done["message"]) == ("done", "win rate 0.625 (0.5 to 0.75)")


def test_a_report_is_boxed_in(desk: Desk, finished: str) -> None:
    got = desk.client.get(f"/runs/{finished}/report")
    policy = got.headers["content-security-policy"]
    assert policy.split("; ")[:2] == ["sandbox", "default-src 'none'"]
    assert "script" not in policy
    assert "allow-" not in policy
    assert got.headers["x-content-type-options"] == "nosniff"
    with desk.studio.store.read() as session:
        job = jobs.job_of(session, finished)
    (jobs.directory_of(desk.studio.workspace, job) / "report.html").unlink()
    assert desk.client.get(f"/runs/{finished}/report").status_code == 404


def _demonstrate(session: object, user: User) -> None:
    """Two demonstrations."""
    batch = batches.create_batch(session, BatchPlan(name="d", kind="demonstration"), by=None)  # type: ignore[arg-type]
    for number in range(2):
        prompt = Prompt.from_text(f"Show {number}?")
        batches.add_prompts(session, [prompt])  # type: ignore[arg-type]
        item = batches.add_item(session, batch, prompt.id)  # type: ignore[arg-type]
        task = queue._task(session, session.get_one(User, user.id), item, time.time())  # type: ignore[arg-type, attr-defined]
        queue.take_place(session, item.id)  # type: ignore[arg-type]
        form = DemonstrationForm(text=f"So {number}.", seconds=60)
        judgements.submit_demonstration(session, session.get_one(User, user.id), task, form)  # type: ignore[arg-type, attr-defined]


def test_from_rankings_to_a_reward_model_and_a_better_policy(desk: Desk) -> None:
    """For real: three labelers, a reward model, its accuracy by labeler, PPO against it, each in its own process."""
    desk.judge("ann", 24)
    desk.judge("bob", 12)
    desk.judge("eve", 24, is_held_out=True)
    reward = desk.client.post("/api/runs", json={"recipe": "reward", "model_id": desk.tiny}).json()
    desk.run_all()
    runs = desk.client.get("/api/runs").json()
    assert [(run["command"], run["state"]) for run in runs] == [("score", "done"), ("reward", "done")], runs
    directory = desk.studio.workspace.runs / "reward"
    accuracy = json.loads((directory / outcomes.ACCURACY).read_text())
    assert {each["name"]: each["held_out"] for each in accuracy["labelers"]} == {
        "ann": False,
        "bob": False,
        "eve": True,
    }
    assert accuracy["across"]["value"] == pytest.approx(
        next(each["accuracy"]["value"] for each in accuracy["labelers"] if each["name"] == "eve")
    )
    html = desk.client.get(f"/runs/{reward['id']}", headers={"accept": "text/html"}).text
    assert "Accuracy by labeler" in html
    with desk.studio.store.read() as session:
        made = session.scalars(select(Model).where(Model.kind == "reward")).one()
        assert (made.path, made.parent_id, made.round_number) == ("runs/reward", desk.tiny, 1)
    ppo = {"recipe": "ppo", "model_id": desk.tiny, "reward_ids": [made.id]}
    run = desk.client.post("/api/runs", json=ppo).json()
    desk.run_all()
    done = desk.client.get(f"/api/runs/{run['id']}").json()
    assert (done["state"], done["message"], done["step"]) == ("done", "made the model ppo", 4), done
    lineage = json.loads((desk.studio.workspace.runs / "ppo" / "lineage.json").read_text())
    assert [parent["path"] for parent in lineage["parents"]] == ["runs/reward"]
    report = desk.client.get(f"/runs/{run['id']}/report")
    assert report.status_code == 200
    with desk.studio.store.read() as session:
        assert session.scalars(select(Job.state)).all() == ["done"] * 3


def test_a_run_that_waits_for_people_has_not_failed(desk: Desk) -> None:
    """Its process said so by its exit status; it is resumed like one that failed, and another status is a failure."""
    home, plan = (
        desk.studio.workspace,
        Plan(name="people", command="agent", recipe="alone = true\nseeds = 1\n", then={}),
    )
    shown = {}
    for status in (LabelsNeededError.status, 2):
        with desk.studio.store.write() as session:
            job = jobs.enqueue(session, home, plan, by=None)
            job.state, job.message = "failed", "7 of 7 comparisons wait"
        directory = jobs.directory_of(home, job)
        directory.mkdir()
        launch.write_note(directory, launch.Note(Process(1, 0.0), status))
        state = desk.client.get(f"/api/runs/{job.id}").json()["state"]
        page = desk.client.get(f"/runs/{job.id}", headers={"accept": "text/html"}).text
        shown[status] = state, "/batches/new?source=clips" in page, 'class="alert"' in page
        if status == LabelsNeededError.status:
            assert 'class="badge warn">waits for people' in desk.client.get("/runs/live").json()["html"]
            live = desk.client.get(f"/runs/{job.id}/live").json()
            assert live["state"] == "failed", "by which the page shows how to resume it"
            assert "waits for people" in live["html"]["status"]
        assert desk.client.post(f"/api/runs/{job.id}/resume").json()["state"] == "queued"
    assert shown == {LabelsNeededError.status: ("waits for people", True, False), 2: ("failed", False, True)}


def test_every_page_says_the_same_of_a_run(desk: Desk) -> None:
    """The dashboard and the rounds too: nothing failed where people are waited for."""
    home = desk.studio.workspace
    with desk.studio.store.write() as session:
        number = rounds.current_or_first(session, "tiny").number
        for name, status in (("asks", LabelsNeededError.status), ("breaks", 2)):
            plan = Plan(name=name, command="ppo", recipe="steps = 4", then={}, round_number=number)
            job = jobs.enqueue(session, home, plan, by=None)
            job.state, job.started_at = "failed", 1.0
            directory = jobs.directory_of(home, job)
            directory.mkdir()
            launch.write_note(directory, launch.Note(Process(1, 0.0), status))
            (directory / "metrics.jsonl").write_text('{"step": 1, "objective/score": 1.0}\n')
    for path in ("/runs", "/rounds", "/dashboard/panels"):
        page = desk.client.get(path, headers={"accept": "text/html"}).text
        for name, badge in (("asks", '"badge warn">waits for people'), ("breaks", '"badge bad">failed')):
            shown = page[page.index(f"<bdi>{name}</bdi>") :]
            assert re.search(r'class=("badge[^<]*)<', shown)[1] == badge, (path, name)  # type: ignore[index]
