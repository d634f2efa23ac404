"""Every source of what a model learns can be started from the page, and its report seen; all on the tiny model."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.studio.conftest import ClientOf, Studio
from tests.studio.training.test_runs import Desk

from palate.feedback.store.tables import Job, Model
from palate.feedback.tasks import batches
from palate.records import Demonstration, Prompt, Ranking
from palate.studio.training import jobs
from palate.studio.training.recipebook import STARTERS

HTML = {"accept": "text/html"}


@pytest.fixture
def desk(studio: Studio, client_of: ClientOf) -> Desk:
    return Desk(studio, client_of("admin"))


def start(desk: Desk, recipe: str, **chosen: Any) -> Job:
    """From the list of recipes to the end of the run: its job, whose report can be opened."""
    assert f"/runs/new?recipe={recipe}" in desk.client.get("/runs/new", headers=HTML).text
    page = desk.client.get(f"/runs/new?recipe={recipe}", headers=HTML).text
    assert "It cannot start yet" not in page
    return finished(desk, desk.client.post("/api/runs", json={"recipe": recipe, "model_id": desk.tiny, **chosen}))


def finished(desk: Desk, started: Any) -> Job:
    assert started.status_code == 201, started.text
    desk.run_all()
    run = desk.client.get(f"/api/runs/{started.json()['id']}").json()
    assert run["state"] == "done", run["message"]
    assert f"/runs/{run['id']}" in desk.client.get("/runs", headers=HTML).text
    assert f"/runs/{run['id']}/report" in desk.client.get(f"/runs/{run['id']}", headers=HTML).text
    assert "<h1>" in desk.client.get(f"/runs/{run['id']}/report").text
    with desk.studio.store.read() as session:
        return jobs.job_of(session, run["id"])


def report_of(desk: Desk, job: Job) -> dict[str, Any]:
    path = jobs.directory_of(desk.studio.workspace, job) / "report.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_model_judges_what_people_ranked_and_a_reward_model_learns_from_both(desk: Desk) -> None:
    desk.judge("ann", 4)
    (desk.studio.workspace.recipes / "judge.toml").write_text(
        (STARTERS / "judge.toml").read_text(encoding="utf-8") + 'verdict = "mean"\n', encoding="utf-8"
    )
    preview = desk.client.get("/api/recipes/judge/preview").json()
    assert (preview["kind"], preview["count"], preview["problem"]) == ("candidates", 4, "")
    judged = start(desk, "judge")
    report = report_of(desk, judged)
    assert (report["prompts"], report["pairs"]) == (4, 12)
    assert report["agreement_with_people"] is not None, "people have ranked the same answers"
    assert judged.message.startswith(f"12 pairs, {report['ties']} of them ties; another answer in the other order ")
    assert f"agrees with people {report['agreement_with_people']:.0%}" in judged.message

    page = desk.client.get("/runs/new?recipe=reward", headers=HTML).text
    assert f'name="also_ids" value="{judged.id}"' in page
    learned = start(desk, "reward", also_ids=[judged.id])
    paths = tomllib.loads(learned.recipe)["data"]["path"].split(",")
    assert paths[1] == f"{judged.directory}/rankings.jsonl"
    sources = {
        row.get("source", "human")
        for path in paths
        for row in map(json.loads, lines(desk.studio.workspace.directory / path))
    }
    assert sources == {"human", "ai"}
    assert report_of(desk, learned)["rankings"] > 4, "more than people have said"


def test_a_model_revises_and_learns_from_that_alone(desk: Desk) -> None:
    """There are no demonstrations by people; what the run has made can be learned from where it is ticked."""
    desk.client.post("/api/prompts", json={"lines": "\n".join(f"Q{n}?" for n in range(6))})
    assert "there are no demonstrations yet" in desk.client.get("/runs/new?recipe=sft", headers=HTML).text
    for name in ("revise", "sft"):
        file = desk.studio.workspace.recipes / f"{name}.toml"
        text = file.read_text(encoding="utf-8")
        keep = "keep_cut_off = true\n" if name == "revise" else ""
        file.write_text(text.replace("\n[", f"\n{keep}[", 1), encoding="utf-8")
    revised = start(desk, "revise")
    made = lines(jobs.directory_of(desk.studio.workspace, revised) / "demonstrations.jsonl")
    assert revised.message.startswith(f"{len(made)} demonstrations of 6 prompts, ")
    assert {Demonstration.model_validate_json(line).author for line in made} == {"ai:tiny"}
    learned = start(desk, "sft", also_ids=[revised.id])
    assert tomllib.loads(learned.recipe)["data"]["path"] == f"{revised.directory}/demonstrations.jsonl"
    refused = desk.client.post("/api/runs", json={"recipe": "sft", "model_id": desk.tiny})
    assert refused.status_code == 409
    other = desk.client.post("/api/runs", json={"recipe": "sft", "model_id": desk.tiny, "also_ids": [learned.id]})
    assert (other.status_code, other.json()["error"]) == (
        404,
        f"run {learned.id} has made no demonstrations that could be learned from",
    )
    strange = desk.client.post("/api/runs", json={"recipe": "revise", "model_id": desk.tiny, "also_ids": [revised.id]})
    assert strange.status_code == 409


def test_answers_that_can_be_checked_need_no_reward_model(desk: Desk) -> None:
    desk.client.post("/api/prompts", json={"lines": "Name a river.\nName a hill."})
    page = desk.client.get("/runs/new?recipe=verified", headers=HTML).text
    assert "It cannot start yet: there are no prompts that can be used yet" in page
    with desk.studio.store.write() as session:
        sums = [Prompt.from_text(f"What is {n} + {n}?", tags={"answer": str(2 * n)}) for n in range(8)]
        batches.add_prompts(session, sums)
    preview = desk.client.get("/api/recipes/verified/preview").json()
    assert (preview["count"], preview["problem"]) == (8, "")
    assert preview["left_out"] == {"without the tag answer, by which answers are checked": 2}
    job = start(desk, "verified")
    tree = tomllib.loads(job.recipe)
    assert [list(term) for term in tree["rewards"]] == [["verifier"], ["verifier", "weight"]]
    asked = [
        Prompt.model_validate_json(line) for line in lines(desk.studio.workspace.directory / tree["prompts"]["path"])
    ]
    assert {prompt.tags["answer"] for prompt in asked} == {str(2 * n) for n in range(8)}
    with desk.studio.store.read() as session:
        assert session.scalars(select(Model).where(Model.job_id == job.id)).one().kind == "policy"


def test_reinforce_learns_from_a_reward_model(desk: Desk) -> None:
    desk.judge("ann", 6)
    refused = desk.client.get("/api/recipes/reinforce/preview").json()["problem"]
    assert refused == "there is no reward model yet: train one first"
    start(desk, "reward")
    with desk.studio.store.read() as session:
        reward = session.scalars(select(Model).where(Model.kind == "reward")).one()
    job = start(desk, "reinforce", reward_ids=[reward.id])
    assert tomllib.loads(job.recipe)["rewards"] == [{"model": reward.path, "weight": 1.0}]


def test_the_starter_constitution_is_the_one_of_the_guide(desk: Desk) -> None:
    ours = STARTERS / "constitutions" / "starter.toml"
    assert ours.read_text(encoding="utf-8") == Path("recipes/constitutions/starter.toml").read_text(encoding="utf-8")
    assert (desk.studio.workspace.recipes / "constitutions" / "starter.toml").exists()
    assert "constitutions" not in [each["name"] for each in desk.client.get("/api/recipes").json()]


def test_what_judges_was_told_is_no_person(desk: Desk) -> None:
    """A ranking that a run has made says so wherever it is read again."""
    desk.judge("ann", 2)
    judged = start(desk, "judge")
    rankings = [
        Ranking.model_validate_json(line)
        for line in lines(desk.studio.workspace.directory / judged.directory / "rankings.jsonl")
    ]
    assert {(ranking.source, ranking.labeler) for ranking in rankings} == {("ai", "ai:tiny")}


# --- files


def sent(desk: Desk, what: str, name: str, text: str, **more: Any) -> Any:
    """From the page with the file's form."""
    page = desk.client.get(f"/runs/file?what={what}", headers=HTML).text
    assert f'value="{what}"' in page
    return desk.client.post("/api/runs/file", data={"what": what, **more}, files={"file": (name, text.encode())})


def text_of(*documents: str) -> str:
    return "".join(json.dumps({"text": document}) + "\n" for document in documents)


GOOD = [
    "The miller got up before the sun and went down to the river, where the old wheel was waiting for him. He had to "
    "mend two boards that the flood had broken, and with every nail he thought of the bread that people in the village "
    "would have from this flour. By noon it turned again, slowly at first, and then as if nothing had ever stopped it.",
    "Nobody in the harbour could say when the bell had last been rung. Some said that it was cast for a king who never "
    "came, others that it hangs there only to be painted. Then, one night of fog in autumn, a child pulled the rope "
    "because her father was out with his boat, and all those who had laughed about the bell came down and listened.",
    "To grow moss between stones you have to be patient. Mix some of it with buttermilk, brush that onto the joints "
    "and keep them wet for six weeks. Birds will pick at it; that does no harm. What kills young plants is the "
    "afternoon, so choose a wall in the shade, and do not walk there until the green has closed over the mortar.",
]


def test_poor_text_is_left_out_and_a_new_model_is_made_of_the_rest(desk: Desk) -> None:
    recipe = desk.studio.workspace.recipes / "pretrain.toml"
    text = recipe.read_text(encoding="utf-8").replace('"5m"', '"1m"').replace("4096", "300").replace("256", "32")
    recipe.write_text(
        text.replace("\n\n[", "\nsteps = 2\nnum_samples = 0\nheld_out_fraction = 0.4\n\n[", 1), encoding="utf-8"
    )
    assert "/runs/file?what=pretrain&amp;recipe=pretrain" in desk.client.get("/runs/new", headers=HTML).text
    documents = [*GOOD, "# # # # # # #", GOOD[0]]
    filtered = finished(desk, sent(desk, "pretrain", "texts.jsonl", text_of(*documents), filtered="true"))
    assert (filtered.stage, filtered.message) == ("filter", "3 of 5 documents kept")
    assert report_of(desk, filtered)["documents_read"] == 5
    with desk.studio.store.read() as session:
        job = session.scalars(select(Job).where(Job.stage == "pretrain")).one()
        model = session.scalars(select(Model).where(Model.job_id == job.id)).one()
    assert (job.state, model.kind, model.parent_id) == ("done", "policy", None)
    assert tomllib.loads(job.recipe)["data"] == {"path": f"{filtered.directory}/kept.jsonl"}
    assert "<h1>" in desk.client.get(f"/runs/{job.id}/report").text
    kept = [
        json.loads(line)["text"] for line in lines(desk.studio.workspace.directory / filtered.directory / "kept.jsonl")
    ]
    assert kept == GOOD


def test_a_new_model_may_be_made_of_everything(desk: Desk) -> None:
    got = sent(desk, "pretrain", "texts.jsonl", text_of(*GOOD), seed="7")
    assert got.json()["command"] == "pretrain"
    with desk.studio.store.read() as session:
        tree = tomllib.loads(jobs.job_of(session, got.json()["id"]).recipe)
    assert tree["seed"] == 7
    kept = desk.studio.workspace.directory / tree["data"]["path"]
    assert kept.read_text(encoding="utf-8") == text_of(*GOOD)
    assert sent(desk, "pretrain", "texts.jsonl", text_of(*GOOD), recipe="nothing").status_code == 404
    assert sent(desk, "filter", "texts.jsonl", "", seed="x").status_code == 422


def test_what_is_mined_can_be_learned_from(desk: Desk) -> None:
    answers = [
        {"question": f"Q{n}?", "answer": f"answer {n} {place}", "score": 10 - 9 * place, "time": 1.5e9}
        for n in range(6)
        for place in (0, 1)
    ]
    votes = "".join(json.dumps(row) + "\n" for row in answers)
    mined = finished(desk, sent(desk, "forum", "votes.jsonl", votes))
    assert mined.stage == "mine"
    assert mined.message.startswith("6 made, ")
    assert f'value="{mined.id}"' in desk.client.get("/runs/new?recipe=reward", headers=HTML).text
    assert f'value="{mined.id}"' not in desk.client.get("/runs/new?recipe=sft", headers=HTML).text
    learned = start(desk, "reward", also_ids=[mined.id])
    assert tomllib.loads(learned.recipe)["data"]["path"] == f"{mined.directory}/mined.jsonl"


def test_a_file_that_cannot_be_used_fails_with_one_clear_line(desk: Desk) -> None:
    started = sent(desk, "trees", "texts.jsonl", text_of(*GOOD)).json()
    desk.run_all()
    run = desk.client.get(f"/api/runs/{started['id']}").json()
    assert run["state"] == "failed"
    assert "holds texts (format text), not rankings" in run["message"]
    assert "Traceback" not in run["message"]


# --- several stages


def test_rounds_in_which_a_model_judges_end_with_a_model(desk: Desk) -> None:
    desk.client.post("/api/prompts", json={"lines": "Only one?"})
    assert (
        "of 1 prompts none are kept to measure on" in desk.client.get("/runs/rounds?recipe=rounds", headers=HTML).text
    )
    desk.client.post("/api/prompts", json={"lines": "\n".join(f"Tell me of {n}?" for n in range(24))})
    assert "no reward model yet" in desk.client.get("/runs/rounds?recipe=rounds", headers=HTML).text
    desk.judge("ann", 6)
    start(desk, "reward")
    with desk.studio.store.read() as session:
        reward = session.scalars(select(Model).where(Model.kind == "reward")).one()
    recipe = desk.studio.workspace.recipes / "rounds.toml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("rounds = 2\n", "rounds = 1\nprompts_per_round = 6\n"), encoding="utf-8")
    assert "/runs/rounds?recipe=rounds" in desk.client.get("/runs/new", headers=HTML).text
    assert reward.name in desk.client.get("/runs/rounds?recipe=rounds", headers=HTML).text
    asked = {"recipe": "rounds", "model_id": desk.tiny, "judge_id": desk.tiny, "reward_id": reward.id}
    job = finished(desk, desk.client.post("/api/runs/rounds", json=asked))
    here = desk.studio.workspace.directory / job.directory
    judged = [Ranking.model_validate_json(line) for line in lines(here / "round-1" / "rankings.jsonl")]
    assert {ranking.labeler for ranking in judged} == {"ai:tiny"}
    with desk.studio.store.read() as session:
        made = session.scalars(select(Model).where(Model.job_id == job.id)).one()
    assert (made.kind, made.parent_id, made.path) == ("policy", desk.tiny, f"{job.directory}/round-1/policy")
    assert job.message.startswith(f"made the model {made.name}, win rate ")
    run = desk.client.get(f"/api/runs/{job.id}").json()
    assert (run["step"], run["total"]) == (1, 1)

    recipe.write_text(recipe.read_text(encoding="utf-8").replace('"ai"', '"people"'), encoding="utf-8")
    refused = desk.client.post("/api/runs/rounds", json=asked)
    assert (refused.status_code, refused.json()["error"][:37]) == (409, "people judge in rounds of their own h")


def test_a_model_behind_an_endpoint_keeps_its_name(desk: Desk) -> None:
    """The workspace's model that the form names would not be known there."""
    desk.judge("ann", 2)
    with desk.studio.store.write() as session:
        reward = Model(name="reward", kind="reward", path="runs/reward/model", created_at=1.0)
        session.add(reward)
    desk.client.post("/api/prompts", json={"lines": "\n".join(f"Tell me of {n}?" for n in range(24))})
    recipes = desk.studio.workspace.recipes
    elsewhere = 'endpoint = { url = "http://127.0.0.1:1/v1" }\n'
    (recipes / "judge.toml").write_text(f'{elsewhere}model = "their-own"\n{(STARTERS / "judge.toml").read_text()}')
    text = (STARTERS / "rounds.toml").read_text().replace("[judge]\n", f'[judge]\nmodel = "their-own"\n{elsewhere}')
    (recipes / "rounds.toml").write_text(text)
    asked = {"recipe": "rounds", "model_id": desk.tiny, "judge_id": desk.tiny, "reward_id": reward.id}
    started = [
        desk.client.post("/api/runs", json={"recipe": "judge", "model_id": desk.tiny}),
        desk.client.post("/api/runs/rounds", json=asked),
    ]
    with desk.studio.store.read() as session:
        judge, several = (tomllib.loads(jobs.job_of(session, each.json()["id"]).recipe) for each in started)
    assert (judge["model"], judge["endpoint"]["url"]) == ("their-own", "http://127.0.0.1:1/v1")
    assert several["judge"]["model"] == "their-own"
    assert several["model"] != "their-own"
    (recipes / "judge.toml").write_text(elsewhere + (STARTERS / "judge.toml").read_text())
    refused = desk.client.post("/api/runs", json={"recipe": "judge", "model_id": desk.tiny})
    assert (refused.status_code, "what the model is called there" in refused.text) == (409, True)


def test_an_agent_has_its_report_and_is_no_model(desk: Desk) -> None:
    pytest.importorskip("gymnasium")
    recipe = desk.studio.workspace.recipes / "agent.toml"
    small = "evaluation_episodes = 2\nfinal_episodes = 2\nminibatches = 2\nepochs = 1\n"
    text = recipe.read_text(encoding="utf-8").replace("minibatches = 16\n", small).replace("steps = 50", "steps = 2")
    text = (
        text.replace("budget = 500", "budget = 20")
        .replace("updates = 100", "updates = 2")
        .replace("_environments = 20", "_environments = 2")
    )
    recipe.write_text(text, encoding="utf-8")
    assert "/runs/agent?recipe=agent" in desk.client.get("/runs/new", headers=HTML).text
    assert "Without its controls" in desk.client.get("/runs/agent?recipe=agent", headers=HTML).text
    before = desk.client.get("/api/models").json()
    job = finished(desk, desk.client.post("/api/runs/agent", json={"recipe": "agent", "alone": True}))
    assert job.message == f"return: learned {report_of(desk, job)['return_learned']:.4g}"
    assert desk.client.get("/api/models").json() == before
    run = desk.client.get(f"/api/runs/{job.id}").json()
    assert (run["step"], run["total"]) == (1, 1)
    assert desk.client.post("/api/runs/agent", json={"recipe": "agent", "seeds": 0}).status_code == 422


def test_only_an_admin_starts_them(desk: Desk, client_of: ClientOf) -> None:
    researcher = client_of("researcher")
    for path in ("/runs/file", "/runs/rounds?recipe=rounds", "/runs/agent?recipe=agent"):
        assert researcher.get(path, headers=HTML).status_code == 403
    for path in ("/api/runs/file", "/api/runs/rounds", "/api/runs/agent"):
        assert researcher.post(path, json={}).status_code == 403
    assert desk.client.get("/api/runs").json() == []
