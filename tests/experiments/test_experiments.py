"""The experiments that prepare models of their own: the frontier and over-optimisation, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.cli import main
from palate.demo.loop import SCALES as DEMO_SCALES
from palate.experiments.frontier import frontier
from palate.experiments.overoptimization import fit_of, gained, with_wrong_labels
from palate.experiments.tracks import Entry, Track
from palate.records import Prompt, Ranking, Response


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def test_the_frontier_compares_the_demonstrations_of_every_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frontier(tmp_path, seeds=2, scale=DEMO_SCALES["tiny"])
    report = report_of(tmp_path)
    assert [method["name"] for method in report["methods"]] == ["ppo", "reinforce", "dpo", "best of n"]
    assert [[run["seed"] for run in method["runs"]] for method in report["methods"]] == [[0, 1]] * 4
    for seed in (0, 1):
        recipe = (tmp_path / "ppo" / f"seed-{seed}" / "recipe.toml").read_text(encoding="utf-8")
        assert f'model = "{tmp_path}/seed-{seed}/favourites"' in recipe
    assert len(list((tmp_path / "baselines").iterdir())) == 2
    capsys.readouterr()
    frontier(tmp_path, seeds=2, scale=DEMO_SCALES["tiny"])
    assert "step" not in capsys.readouterr().err


def test_over_optimisation_through_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["overoptimize", "--out", str(out), "--scale", "tiny"]) == 0
    report = report_of(out)
    names = [method["name"] for method in report["methods"]]
    ensembles = ["mean-of-proxies", "least-of-proxies", "mean-minus-spread"]
    assert names[:6] == ["one-proxy", "one-proxy-penalty", "few-labels", *ensembles]
    assert names[6:] == [f"best of n by {name}'s reward" for name in ("one-proxy", "few-labels", *ensembles)]
    means = {method["name"]: np.array(method["runs"][0]["reward"]) for method in report["methods"][6:]}
    one, few, mean, least, cautious = means.values()
    assert (least < mean).all(), "no mean is below the least"
    assert (cautious < mean).all()
    assert not np.allclose(one, mean)
    assert not np.allclose(one, few)
    every, some = ((out / "seed-0" / f"{of}rankings.jsonl").read_text("utf-8").splitlines() for of in ("", "few_"))
    assert some == every[: len(every) // 4]
    assert {found["form"] for found in report["fits"].values()} == {"best of n", "rl"}
    for name, found in report["fits"].items():
        assert found["form"] == ("best of n" if name.startswith("best") else "rl")
        if found["alpha_low"] is not None:  # six prompts are few
            assert found["alpha_low"] <= found["alpha"] <= found["alpha_high"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert "Where more optimisation does harm" in page
    heads = [(out / "seed-0" / f"reward-{n}/model/model.safetensors").read_bytes() for n in range(2)]
    assert heads[0] != heads[1], "an ensemble of equals would agree about everything"


def test_a_quarter_of_the_labels_is_wrong_whatever_their_order() -> None:
    right = [
        Ranking(
            prompt=Prompt.from_text(f"What of {n}?"),
            responses=(Response(text="a"), Response(text="b")),
            ranks=(1, 2) if n % 3 else (1, 1),
        )
        for n in range(4000)
    ]
    found = with_wrong_labels(right, 0.25, seed=0)
    turned = [a.ranks != b.ranks for a, b in zip(right, found, strict=True) if a.ranks == (1, 2)]
    assert np.mean(turned) == pytest.approx(0.25, abs=0.03)
    assert all(b.ranks == (1, 1) for a, b in zip(right, found, strict=True) if a.ranks == (1, 1)), "a tie stays one"
    assert with_wrong_labels(right[::-1], 0.25, seed=0) == found[::-1]
    assert with_wrong_labels(right, 0.25, seed=1) != found


def track(seed: int, gold: np.ndarray[Any, np.dtype[np.float64]], d: list[float]) -> Track:
    kl = np.repeat(np.square(d)[:, None], gold.shape[1], axis=1)
    zeros = np.zeros_like(kl)
    return Track(seed=seed, stops=range(len(d)), d=np.array(d), kl=kl, won=zeros, judge=gold, words=zeros)


def test_forms_are_fitted_to_what_was_gained_over_all_seeds() -> None:
    d = [0.0, 1.0, 2.0, 3.0]
    gold = np.repeat(np.array([x * (2 - 0.5 * x) for x in d])[:, None], 40, axis=1)
    tracks = [track(0, 5 + gold, d), track(1, gold - 3, d)]  # from different beginnings
    assert gained(tracks[0].judge)[0].tolist() == [0.0] * 40
    found = fit_of(Entry(name="best of n", trains=False, tracks=tracks))
    assert found is not None
    assert (found.alpha.value, found.beta.value, found.peak.value) == pytest.approx((2.0, 0.5, 2.0))
    assert found.reached
    assert fit_of(Entry(name="failed", failed={0: "why"})) is None
