"""Every JSON that is written is one that every reader takes: what is undefined is null, never a bare NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.disk import json_text
from palate.evals.page import Report
from palate.recipe import Data, SFTRecipe
from palate.rewards.heads import Normalization
from palate.run.directory import Run

NAN, INF = math.nan, math.inf


def strictly(text: str) -> Any:
    """What JSON's standard says of a text."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def defined(value: Any) -> Any:
    """The same with None for what is not finite."""
    if isinstance(value, dict):
        return {key: defined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(VALUES)
def test_whatever_is_finite_comes_back_and_the_rest_is_null(value: Any) -> None:
    assert strictly(json_text(value)) == defined(value)
    assert strictly(json_text(value, indent=2, ensure_ascii=False)) == defined(value)


def test_tuples_and_numbers_of_numpy() -> None:
    import numpy as np

    assert strictly(json_text({"a": (1, np.float64("nan")), "b": [INF, -INF]})) == {"a": [1, None], "b": [None, None]}


def test_reports_and_runs(tmp_path: Path) -> None:
    run = Run.open(tmp_path, SFTRecipe(data=Data(path="d.jsonl")))
    run.samples(0, [{"prompt": "p", "response": "r", "score": NAN}])
    report = Report("title")
    report.number("rate", NAN, low=-INF, high=INF)
    report.data("points", [{"kl": NAN, "rate": 0.5}])
    report.write(tmp_path)
    run.finish({"accuracy": NAN, "kl": INF, "nested": {"values": [NAN]}})
    figures = strictly((tmp_path / "report.json").read_text())
    assert (figures["accuracy"], figures["kl"], figures["nested"]) == (None, None, {"values": [None]})
    assert (figures["rate"], figures["points"]) == (None, [{"kl": None, "rate": 0.5}])
    assert strictly((tmp_path / "samples.jsonl").read_text())["score"] is None
    strictly((tmp_path / "lineage.json").read_text())


def test_the_normalization_of_scores_that_are_not_finite() -> None:
    assert strictly(Normalization.of(torch.tensor([1.0, NAN]), "two").to_json())["mean"] is None


def test_data_in_a_page_of_the_app() -> None:
    pytest.importorskip("fastapi")
    from palate.studio.web.rendering import data_block

    assert strictly(str(data_block({"curve": [0.5, NAN]}))) == {"curve": [0.5, None]}
