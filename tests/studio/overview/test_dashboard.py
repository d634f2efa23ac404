"""The dashboard: figures that are right, pictures of runs as they go, and a way on where there is nothing."""

from __future__ import annotations

import json
from typing import Any

from tests.studio.collected import collect
from tests.studio.conftest import ClientOf, Studio

from palate.feedback.store.tables import Job, Model
from palate.studio.web.description import describe


def run(studio: Studio, name: str, stage: str, then: dict[str, Any] | None = None, **files: Any) -> str:
    directory = studio.workspace.runs / name
    directory.mkdir()
    for file, content in files.items():
        lines = [content] if isinstance(content, dict) else content
        path = directory / (f"{file}.json" if isinstance(content, dict) else f"{file}.jsonl")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with studio.store.write() as session:
        job = Job(name=name, stage=stage, recipe="", directory=f"runs/{name}", state="running", then=then or {},
                  created_at=1.0, started_at=1.0)  # fmt: skip
        session.add(job)
        session.flush()
        return job.id


def test_an_empty_one_leads_on(client_of: ClientOf) -> None:
    html = client_of("researcher").get("/dashboard").text
    for place in ("/start", "/batches", "/runs"):
        assert f'class="button" href="{place}"' in html
    assert "<svg" not in html.split('id="panels"')[1]


def test_figures_and_pictures(studio: Studio, client_of: ClientOf) -> None:
    researcher = client_of("researcher")
    collect(studio.store, [client_of("labeler").user, client_of("labeler").user])
    with studio.store.write() as session:
        models = [Model(name=name, path=name, created_at=1.0) for name in ("taught", "base")]
        session.add_all(models)
        session.flush()
        then = {"model_id": models[0].id, "baseline_id": models[1].id}
    logged = {"policy/entropy": 2.0, "tokens/response_length": 9}
    steps = [{"step": step, "objective/score": step / 10, "objective/kl": step, **logged} for step in range(3)]
    samples = [{"step": step, "prompt": "why?", "response": f"because {step}"} for step in (0, 2)]
    run(studio, "ppo-one", "ppo", metrics=steps, samples=samples)
    said = researcher.get("/dashboard/panels").text
    for title in ("Judgements an hour", "Score", "KL to the reference", "Response length", "Entropy"):
        assert f"<figcaption>{title}</figcaption>" in said, title
    assert "because 0" in said
    assert "because 2" in said
    texts = [{"prompt": "how?", "before": "badly", "after": "<b>well</b>"}]
    report = {"title": "x against y", "win_rate": 0.75, "win_rate_low": 0.6, "win_rate_high": 0.9, "texts": texts}
    run(studio, "won", "eval", then, report=report)
    said = researcher.get("/dashboard?projector").text
    assert "taught against base" in said
    assert "&lt;b&gt;well&lt;/b&gt;" in said
    assert "projector" in said
    figures = researcher.get("/api/dashboard").json()
    assert figures["win_rates"] == [
        {"model": "taught", "baseline": "base", "judge": "judged by a reward model",
         "win_rate": {"value": 0.75, "low": 0.6, "high": 0.9}}
    ]  # fmt: skip
    # two people with five judgements each, one of them a test, and three in the chat of the first
    assert figures["judgements"] == sum(figures["over_time"].values()) == 2 * 5 + 3
    assert figures["people"] == 2
    assert {each["complete"] for each in figures["coverage"]} == {1, 2}
    assert 0 < figures["agreement"]["value"] < 1


def test_the_log_is_read_page_by_page_without_names(studio: Studio, client_of: ClientOf) -> None:
    people = [client_of("labeler", "Ann Example").user]
    collect(studio.store, people)
    researcher, seen, after = client_of("researcher"), [], 0
    while after is not None:
        answer = researcher.get("/api/judgements", params={"after": after, "limit": 2})
        assert "Ann Example" not in answer.text
        assert "private" not in answer.text
        seen += [line["number"] for line in answer.json()["judgements"]]
        after = answer.json()["next"]
    assert seen == sorted(set(seen))
    assert len(seen) == 5 + 2
    assert researcher.get("/api/judgements?after=99999999999999999999").status_code == 422


def test_everything_is_described(studio: Studio, client_of: ClientOf) -> None:
    chat = client_of("chat")
    described = chat.get("/api/openapi.json").json()
    assert described == describe(studio.app)
    for path, item in described["paths"].items():
        for method, operation in item.items():
            where = (method, path)
            assert operation["tags"], where
            assert operation["summary"], where
            if path != "/healthz":
                assert operation["security"] == [{"token": []}, {"cookie": []}], where
                assert operation["x-roles"], where
                assert {"401", "403"} <= operation["responses"].keys(), where
            assert "HTTPValidationError" not in json.dumps(operation), where
    html = chat.get("/api-docs").text
    for path in described["paths"]:
        assert f"<code>{path}</code>" in html, path
