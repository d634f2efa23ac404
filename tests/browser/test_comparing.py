"""Starting a comparison of methods in a real browser: from the recipes to the page of its run, wide and on a phone."""

from __future__ import annotations

import os
import tomllib
from typing import Any

import pytest
import tomli_w
from sqlalchemy import select
from tests.browser.conftest import Served
from tests.browser.test_credit import accessible

from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, Model
from palate.feedback.tasks import batches
from palate.records import Prompt
from palate.studio.training import jobs
from palate.studio.training.recipebook import Plan


@pytest.fixture
def runs(served: Served) -> list[str]:
    """Three runs that have ended well, and a reward model that one of them learned from; their ids."""
    made = []
    with served.store.write() as session:
        batches.add_prompts(session, [Prompt.from_text(f"What of {topic}?") for topic in ("rain", "snow", "bees")])
        tiny = policies.base_policy(session, "tiny")
        rounds.begin(session, tiny)
        session.add_all(
            Model(name=name, path=f"runs/{name}", kind="reward", created_at=at)
            for at, name in enumerate(("reward", "reward-2"))
        )
        for name, changes in (("ppo", {"rewards": [{"model": "runs/reward"}]}), ("dpo", {}), ("dpo", {"beta": 0.5})):
            tree: dict[str, Any] = {"stage": name, "model": "tiny", "seed": 0, **changes}
            tree |= {"prompts" if name == "ppo" else "data": {"path": "data/them.jsonl"}}
            plan = Plan(name=name, command=name, recipe=tomli_w.dumps(tree), then={}, round_number=1)
            job = jobs.enqueue(session, served.workspace, plan, by=None)
            job.state, job.started_at, job.ended_at = "done", 0.0, 700.0
            made.append(job.id)
    return made


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_an_admin_compares_finished_runs(served: Served, runs: list[str], palette: str) -> None:
    page = served.page_of("Ada", "admin", color_scheme=palette, viewport={"width": 1280, "height": 900})
    page.goto("/runs/new")
    page.locator(".choice", has_text="Was it luck?").get_by_role("link", name="Choose").click()
    page.get_by_role("heading", name="Compare methods").wait_for()
    assert page.locator("tbody tr").count() == 3
    assert accessible(page) == []
    pictures = os.environ.get("PALATE_SCREENSHOTS") if palette == "light" else None
    if pictures:
        page.screenshot(path=f"{pictures}/compare.png", full_page=True)

    # nothing ticked: it is said where one looks, and nothing is lost
    page.get_by_role("button", name="Start").click()
    page.locator(".form-error", has_text="tick the runs").wait_for()
    page.get_by_label("ppo").check()
    page.get_by_label("dpo 2").check()
    page.get_by_label("Seeds").fill("2")
    page.get_by_label("Judged by").select_option(label="reward-2")
    page.get_by_text("They may differ in").click()
    page.get_by_label("the prompts they answer").check()
    page.set_viewport_size({"width": 390, "height": 844})
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    if pictures:
        page.screenshot(path=f"{pictures}/compare-phone.png", full_page=True)
    page.get_by_role("button", name="Start").click()

    page.get_by_role("heading", name="compare", exact=True).wait_for()
    assert "0 of 4" in page.locator("[data-part=status]").inner_text()
    assert accessible(page) == []
    with served.store.read() as session:
        job = session.scalars(select(Job).where(Job.stage == "compare")).one()
    assert page.url.endswith(f"/runs/{job.id}")
    whole = tomllib.loads(job.recipe)
    assert list(whole["methods"]) == ["dpo-2", "ppo"]  # the newest first, as they are listed
    assert whole["methods"]["dpo-2"]["beta"] == 0.5
    assert (whole["seeds"], whole["allow_different"]) == (2, ["prompts"])
    assert whole["evaluation"]["judge"] == {"model": "runs/reward-2"}
    assert [line for line in served.complaints if "409" not in line] == []
