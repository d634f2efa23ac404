"""Documentation that is written from the code is what the code says now."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from palate.run.metrics import HEADLINES, METRICS, explain, headline

SCRIPT = Path(__file__).parent.parent / "scripts" / "reference.py"


@pytest.mark.parametrize("name", ["commands.md", "recipes.md", "metrics.md", "files.md", "models.md"])
def test_reference_is_current(name: str) -> None:
    written = (SCRIPT.parent.parent / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert runpy.run_path(str(SCRIPT))["pages"]()[name] == written, "run `make docs`"


def test_every_metric_is_explained_in_a_sentence() -> None:
    assert [name for name, text in METRICS.items() if not text.endswith(".")] == []
    assert set(HEADLINES) <= set(METRICS)


def test_a_name_that_nobody_explained() -> None:
    assert explain("objective/score") == METRICS["objective/score"]
    assert explain("policy/los") is None


def test_headline_is_short_and_in_its_own_order() -> None:
    metrics = {"sft/loss": 1.0, "time/step_s": 2.0, "objective/kl": 3.0, "objective/score": 4.0}
    assert headline(metrics, count=2) == {"objective/score": 4.0, "objective/kl": 3.0}
