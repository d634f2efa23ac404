"""The forms that start training in a real browser: how many heads, and what counts where they disagree."""

from __future__ import annotations

import json
import time
import tomllib

from sqlalchemy import select
from tests.browser.conftest import Served

from palate.feedback.store.tables import Job, Model, User
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Prompt, Ranking, Response


def prepared(served: Served) -> None:
    """Rankings, prompts, a policy and a reward model of three heads."""
    with served.store.write() as session:
        user = session.scalars(select(User)).one()
        batch = batches.create_batch(session, BatchPlan(name="Mills", round_number=None), by=user)
        for number in range(30):
            prompt = Prompt.from_text(f"Question {number}?")
            batches.add_prompts(session, [prompt])
            responses = tuple(Response(text=text) for text in ("Yes.", "No."))
            rows = [batches.add_response(session, prompt.id, response) for response in responses]
            item = batches.add_item(session, batch, prompt.id, [row.id for row in rows])
            ranking = Ranking(prompt=prompt, responses=responses, ranks=(1, 2), labeler=user.name)
            record = ranking.model_dump(mode="json", exclude_defaults=True)
            if number:
                judgements.append(session, "ranking", record, user)
            assert item is not None
        for kind in ("policy", "reward"):
            session.add(Model(name=f"{kind} of May", path=f"runs/{kind}", kind=kind, created_at=time.time()))
    heads = served.workspace.directory / "runs" / "reward" / "model" / "heads.json"
    heads.parent.mkdir(parents=True)
    heads.write_text(json.dumps([{"objective": "preference", "flag": ""}] * 3), encoding="utf-8")


def test_heads_and_what_counts_where_they_disagree(served: Served) -> None:
    page = served.page_of("Ada", "admin")
    prepared(served)
    page.goto("/runs/new?recipe=reward")
    page.get_by_label("Heads").fill("5")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(lambda url: "/runs/" in url and "new" not in url)
    page.goto("/runs/new?recipe=ppo")
    page.get_by_label("Where they disagree").select_option("mean_minus_std")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(lambda url: "/runs/" in url and "new" not in url)
    with served.store.read() as session:
        made = {job.stage: tomllib.loads(job.recipe) for job in session.scalars(select(Job))}
        batch = session.scalars(select(batches.Batch)).one().id
    assert made["reward"]["heads"] == 5
    assert made["ppo"]["rewards"][0] == {"ensemble": ["runs/reward"], "aggregation": "mean_minus_std"}
    page.goto(f"/batches/{batch}")
    assert "It has 3 heads" in page.locator("section", has_text="What to label next").first.inner_text()
    assert served.complaints == []
