"""What a job's recipe gets from the workspace."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from palate.feedback.store import policies
from palate.feedback.store.tables import Model
from palate.records import Prompt
from palate.studio import serve
from palate.studio.training import plans
from palate.studio.web.workspace import Settings


@pytest.mark.parametrize(("template", "saved"), [("chatml", "chatml"), ("mine.jinja", "{}/mine.jinja"), ("", None)])
def test_the_first_model_is_laid_out_as_the_workspace_says(template: str, saved: str | None, tmp_path: Path) -> None:
    workspace = serve.create(tmp_path / "taste", Settings(model="tiny", chat_template=template))
    (workspace.directory / "mine.jinja").write_text("", encoding="utf-8")
    with workspace.store.write() as session:
        first = policies.base_policy(session, "tiny")
        later = Model(name="later", kind="policy", path="runs/sft", created_at=first.created_at)
        session.add(later)
        session.flush()
        session.expunge_all()

    def template_of(models: Sequence[Model]) -> list[object]:
        prompts, settings = [Prompt.from_text("Hi")], {"responses_per_prompt": 1}
        made = [
            plans.plan_sampling(workspace, model, prompts, settings=settings, then={}, round_number=None)
            for model in models
        ]
        return [tomllib.loads(plan.recipe).get("chat_template") for plan in made]

    expected = saved and saved.format(workspace.directory)
    assert template_of([first, later]) == [expected, None]
