"""Where the reward model was not taught, in a real browser: measured, looked at, and people asked there."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tomli_w
from sqlalchemy import select
from tests.browser.conftest import Served
from tests.browser.test_credit import accessible

from palate.evals.coverage import covered
from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, Model
from palate.feedback.tasks import batches
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Prompt, Response
from palate.stages.measuring.coverage_report import mapped
from palate.studio.training import jobs
from palate.studio.training.jobs import Runner

TOPICS = [f"Tell me about tea of the year {year}, in two sentences." for year in range(1950, 1986)]


@pytest.fixture
def batch_id(served: Served) -> str:
    """A workspace with a reward model, prompts, and a batch of the first of them."""
    run = served.workspace.runs / "reward"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(tomli_w.dumps({"stage": "reward", "model": "tiny", "data": {"path": "none"}}))
    with served.store.write() as session:
        rounds.begin(session, policies.base_policy(session, "tiny"))
        session.add(Model(name="taste", path="runs/reward", kind="reward", created_at=1.0))
        batches.add_prompts(session, map(Prompt.from_text, TOPICS))
        batch = batches.create_batch(session, BatchPlan(name="Tea"), by=None)
        for text in TOPICS[:3]:
            prompt_id = Prompt.from_text(text).id
            rows = [batches.add_response(session, prompt_id, Response(text=said)) for said in ("Yes.", "No.")]
            batches.add_item(session, batch, prompt_id, [row.id for row in rows])
        return batch.id


def measure(served: Served) -> None:
    """What the process of the job that waits would have left behind."""
    draw = np.random.default_rng(0)
    places = draw.normal(size=(120, 4)), draw.normal(scale=1.6, size=(len(TOPICS), 4))
    found = covered(*places, neighbours=10, seed=0)
    with served.store.read() as session:
        job = session.scalars(select(Job).where(Job.stage == "coverage")).one()
    directory = jobs.directory_of(served.workspace, job)
    directory.mkdir()
    (directory / "map.svg").write_text(mapped(places, found))
    inside, reached = found.inside, found.reached_share
    figures = {
        "inside": inside.value,
        "inside_low": inside.low,
        "inside_high": inside.high,
        "reached": reached.value,
        "reached_low": reached.low,
        "reached_high": reached.high,
        "expected": found.expected,
        "edge": found.edge,
        "distances": found.distances.tolist(),
        "prompts": [Prompt.from_text(text).id for text in TOPICS],
    }
    (directory / "report.json").write_text(json.dumps(figures))
    Runner(served.workspace)._use(job)


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_an_admin_lets_people_label_where_nobody_has(served: Served, batch_id: str, palette: str) -> None:
    page = served.page_of("Ada", "admin", color_scheme=palette, viewport={"width": 1280, "height": 900})
    page.goto(f"/batches/{batch_id}")
    page.get_by_role("link", name="are your prompts inside what it learned from?").click()
    page.get_by_label("Reward model").select_option(label="taste")
    page.get_by_role("button", name="Measure").click()
    page.wait_for_url("**/runs/*")
    measure(served)
    page.reload()
    page.get_by_role("link", name="See where they lie, and let people label there").click()
    page.get_by_role("heading", name="The furthest prompts").wait_for()
    assert page.locator("tbody tr").count() == 20
    page.wait_for_function("(i => i.complete && i.naturalWidth > 0)(document.querySelector('.map img'))")
    assert accessible(page) == []
    if pictures := os.environ.get("PALATE_SCREENSHOTS"):
        page.set_viewport_size({"width": 1280, "height": 1250})
        page.screenshot(path=f"{pictures}/coverage-{palette}.png")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})

    page.get_by_label("Prompts", exact=True).fill("3")
    page.get_by_role("button", name="Sample and make the batch").click()
    page.wait_for_url("**/runs/*")
    with served.store.read() as session:
        drawn = session.scalars(select(Job).where(Job.stage == "sample")).one()
    assert drawn.then["batch"]["name"] == "More prompts"

    page.goto(f"/batches/{batch_id}")
    page.get_by_role("button", name="Order by distance from what it learned from").click()
    page.get_by_role("button", name="Back to the order in which it was made").wait_for()
    assert accessible(page) == []
    assert served.complaints == []
