"""What a run can begin with besides what people said, in a real browser: from the list to the page of its run."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.browser.conftest import Served
from tests.browser.test_credit import accessible

from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, Model
from palate.feedback.tasks import batches
from palate.records import Prompt, Response
from palate.studio.training import jobs
from palate.studio.training.recipebook import Plan


@pytest.fixture
def page(served: Served) -> Any:
    """An admin's; there are prompts with two answers each, a reward model, and a run in which a model judged."""
    with served.store.write() as session:
        tiny = policies.base_policy(session, "tiny")
        rounds.begin(session, tiny)
        prompts = [Prompt.from_text(f"What of {topic}?") for topic in ("rain", "snow", "bees")]
        batches.add_prompts(session, prompts)
        for prompt in prompts:
            for text in ("Much.", "Not much that I would know of."):
                batches.add_response(session, prompt.id, Response(text=text), model_id=tiny.id)
        session.add(Model(name="reward", path="runs/reward", kind="reward", created_at=1.0))
        plan = Plan(name="judge", command="judge", recipe='stage = "judge"\n', then={}, round_number=1)
        job = jobs.enqueue(session, served.workspace, plan, by=None)
        job.state, job.message = "done", "3 pairs, 1 of them ties; another answer in the other order 33%"
    directory = jobs.directory_of(served.workspace, job)
    directory.mkdir(parents=True)
    (directory / "rankings.jsonl").write_text("{}\n" * 3, encoding="utf-8")
    return served.page_of("Ada", "admin", viewport={"width": 1280, "height": 900})


def looked_at(page: Any, name: str) -> None:
    """Accessible, no wider than a phone, and a picture if one is wanted."""
    assert accessible(page) == []
    pictures = os.environ.get("PALATE_SCREENSHOTS")
    if pictures:
        page.screenshot(path=f"{pictures}/{name}.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    if pictures:
        page.screenshot(path=f"{pictures}/{name}-phone.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})


def choose(page: Any, about: str) -> None:
    page.goto("/runs/new")
    page.locator(".choice", has_text=about).get_by_role("link", name="Choose").click()


def started(served: Served, page: Any) -> tuple[Job, dict[str, Any]]:
    """Presses the button; the job whose page is shown then, and its recipe."""
    page.get_by_role("button", name="Start").click()
    page.get_by_text("The recipe it runs").wait_for()
    with served.store.read() as session:
        job = session.scalars(select(Job).where(Job.state == "queued").order_by(Job.created_at.desc())).first()
    assert job is not None
    assert page.url.endswith(f"/runs/{job.id}")
    return job, tomllib.loads(job.recipe)


def test_a_model_that_judges_is_started_and_learned_from(served: Served, page: Any) -> None:
    page.goto("/runs/new")
    looked_at(page, "runs-new")
    choose(page, "Let a model compare answers by written principles")
    page.get_by_label("The model that judges").select_option(label="tiny")
    looked_at(page, "runs-new-judge")
    job, tree = started(served, page)
    assert (job.stage, tree["model"]) == ("judge", "tiny")
    assert tree["constitution"] == "recipes/constitutions/starter.toml"
    assert (served.workspace.directory / tree["constitution"]).exists()
    assert (served.workspace.directory / tree["candidates"]["path"]).read_text(encoding="utf-8").count("\n") == 3
    page.goto("/runs/new?recipe=reward")
    assert page.get_by_label("judge: 3 rankings").is_visible()
    assert not page.get_by_label("judge: 3 rankings").is_checked()
    looked_at(page, "runs-new-also")
    assert served.complaints == []


def test_a_file_is_looked_at_filtered_and_made_a_model_of(served: Served, page: Any, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "It rains, and it has rained."}\n' * 3, encoding="utf-8")
    choose(page, "Make a new model out of raw text")
    page.get_by_label("File").set_input_files(file)
    page.locator("[data-shown]").get_by_text("It rains, and it has rained.").first.wait_for()
    looked_at(page, "runs-file-pretrain")
    job, tree = started(served, page)
    assert (job.stage, tree["stage"]) == ("filter", "filter")
    assert tomllib.loads(job.then["after"]["recipe"])["architecture"] == {"preset": "5m"}
    assert (served.workspace.directory / tree["path"]).read_text(encoding="utf-8") == file.read_text(encoding="utf-8")

    choose(page, "Leave out poor text and duplicates, or make preferences")
    assert not page.get_by_label("Leave out poor text and duplicates first").count()
    page.get_by_label("It holds").select_option(value="hygiene")
    page.get_by_label("File").set_input_files(file)
    page.locator("[data-shown]").get_by_text("It rains, and it has rained.").first.wait_for()
    looked_at(page, "runs-file")
    job, tree = started(served, page)
    assert (job.stage, tree["kind"]) == ("mine", "hygiene")
    assert served.complaints == []


def test_what_is_done_before_a_pages_scripts_have_come_is_done_when_they_have(
    served: Served, page: Any, tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "It rains, and it has rained."}\n', encoding="utf-8")
    page.route(re.compile(r"/(forms|file|palate)\.js"), lambda _: None)  # held until they are let go
    page.goto("/runs/file?what=pretrain&recipe=pretrain", wait_until="commit")
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Start").click()
    assert page.url.endswith("/runs/file?what=pretrain&recipe=pretrain")  # not sent by the browser itself
    with page.expect_request("**/api/uploads"), page.expect_response("**/api/runs/file") as answered:
        page.unroute_all()
    assert answered.value.status == 201
    page.get_by_text("The recipe it runs").wait_for()
    with served.store.read() as session:
        assert len(session.scalars(select(Job).where(Job.state == "queued")).all()) == 1
    assert served.complaints == []


def test_rounds_and_an_agent_are_started(served: Served, page: Any) -> None:
    choose(page, "Round after round without people")
    page.get_by_text("of 3 prompts none are kept to measure on: bring more").wait_for()
    with served.store.write() as session:
        batches.add_prompts(session, [Prompt.from_text(f"What of {number}?") for number in range(40)])
    choose(page, "Round after round without people")
    page.get_by_label("Measured by").select_option(label="reward")
    looked_at(page, "runs-rounds")
    job, tree = started(served, page)
    assert (job.stage, tree["labelers"], tree["evaluation"]["judge"]) == ("rounds", "ai", {"model": "runs/reward"})
    choose(page, "an agent learns to swing a pendulum up")
    page.get_by_label("Seeds").fill("2")
    looked_at(page, "runs-agent")
    job, tree = started(served, page)
    assert (job.stage, tree["seeds"], tree["alone"], tree["agent"]["environment"]) == ("agent", 2, False, "Pendulum-v1")
    assert served.complaints == []
