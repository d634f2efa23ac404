"""Whole comparisons of the tiny model through the real command: measured right, resumed to the same bits, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.experiments.conftest import HELD_OUT, Write

from palate.cli import main
from palate.experiments.followed import SNAPSHOTS, read_costs

METHODS = ("ppo", "reinforce", "dpo")
STEPS = 4


@pytest.fixture
def command(settings: dict[str, dict[str, Any]], evaluation: dict[str, Any], write: Write) -> list[str]:
    """Three methods over two seeds."""
    changes: dict[str, dict[str, Any]] = {
        "ppo": {"steps": STEPS, "checkpoint_every": 1},
        "reinforce": {"steps": STEPS, "optimizer": {"learning_rate": 3e-3, "schedule": "constant"}},
        "dpo": {"optimizer": {"learning_rate": 1e-3}},
    }
    files = [write(name, settings[name], **changes[name]) for name in METHODS]
    return ["compare", *files, "--eval", write("judged", evaluation), "--seeds", "2"]


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def files_of(out: Path) -> dict[str, bytes]:
    """Everything that is a function of recipes and seeds alone."""
    kept = [
        path for pattern in ("**/points/*.json", "**/model/*", "best-of-n/*", "starts/*") for path in out.glob(pattern)
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept if path.is_file()}


def without_times(report: dict[str, Any]) -> str:
    """The report as text, without what differs from run to run."""
    plain = {key: value for key, value in report.items() if key not in ("seconds", "at_equal_seconds", "notes")}
    for method in plain["methods"]:
        for run in method["runs"]:
            run.pop("seconds")
    return json.dumps(plain, sort_keys=True)


def test_three_methods_over_two_seeds(
    command: list[str], settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "== ppo, seed 0: run 1 of 6" in said
    assert "== dpo, seed 1: run 6 of 6" in said
    report = report_of(out)
    methods = {method["name"]: method for method in report["methods"]}
    assert list(methods) == [*METHODS, "best of n"]
    for name in METHODS:
        for seed, run in enumerate(methods[name]["runs"]):
            assert run["seed"] == seed
            assert run["stops"][0] == 0
            assert len(run["stops"]) == 3  # the start, the middle and the end
            assert run["kl"][0] == pytest.approx(0, abs=1e-5)
            assert run["win_rate"][0] == pytest.approx(0.5)
            assert run["win_rate_length_controlled"][0] == pytest.approx(0.5)
            assert len(run["win_rate_length_controlled"]) == len(run["stops"])
            assert run["kl"][-1] > 1e-3
            assert run["tokens"] == sorted(run["tokens"])
            assert run["seconds"][-1] == read_costs(out / name / f"seed-{seed}")[-1]["seconds"]
        assert methods[name]["runs"][0]["kl"] != methods[name]["runs"][1]["kl"], "seeds differ"
        assert methods[name]["runs"][0]["reward"] is not None, "those without a reward are given the others'"
    assert [run["stops"] for run in methods["best of n"]["runs"]] == [[1, 2, 3, 4]] * 2

    # at equal KL: no farther than any run, sorted, and paired with the first
    rows, kl = report["at_equal_kl"], report["at_kl"]
    assert kl == pytest.approx(min(max(run["kl"]) for name in METHODS for run in methods[name]["runs"]))
    rates = [row["win_rate"] for row in rows if "win_rate" in row]
    assert rates == sorted(rates, reverse=True)
    assert rows[1]["minus_first"] == pytest.approx(rates[1] - rates[0])
    assert {row["method"]: row["seeds"] for row in rows} == dict.fromkeys([*METHODS, "best of n"], 2)
    least = min(run["tokens"][-1] for name in METHODS for run in methods[name]["runs"])
    assert report["at_equal_tokens"]["tokens"] == least
    assert {row["key"] for row in report["differences"]} >= {"stage", "optimizer.learning_rate", "steps"}
    assert report["seeds"] == 2
    assert json.loads((out / "lineage.json").read_text(encoding="utf-8"))["ended"] is not None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert not list(out.glob(f"*/*/{SNAPSHOTS}/*")), "measured weights are deleted"

    # a run is what the stage's own command makes
    alone = tmp_path / "alone"
    assert main(["ppo", str(tmp_path / "ppo.toml"), "--set", "seed=1", "--out", str(alone)]) == 0
    model = "model/model.safetensors"
    assert (alone / model).read_bytes() == (out / "ppo" / "seed-1" / model).read_bytes()

    # once more: nothing is run or measured; a seed more: only that
    before, times = files_of(out), {path: path.stat().st_mtime_ns for path in out.glob("*/*/points/*")}
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "step" not in said
    assert f"{out}: this run finished" not in said, "more may be asked of it"
    assert files_of(out) == before
    assert without_times(report_of(out)) == without_times(report)
    assert main([*command, "--out", str(out), "--seeds", "3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [run["seed"] for run in report_of(out)["methods"][0]["runs"]] == [0, 1, 2]

    # what they are measured by must stay
    assert main([*command, "--out", str(out), "--set", "eval:responses_per_prompt=3"]) == 2
    assert "responses_per_prompt: 2 is now 3" in capsys.readouterr().err


def test_a_method_that_could_have_a_reward_and_has_none_is_given_the_others(
    settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    files = [write(name, settings[name], steps=1) for name in ("distill", "reinforce")]
    out = tmp_path / "out"
    changes = ["distill:rewards=[]", 'distill:teachers=["tiny"]', "eval:points=1", "eval:best_of=2"]
    evaluated = ["--eval", write("judged", evaluation), "--set", *changes]
    assert main(["compare", *files, *evaluated, "--seeds", "1", "--out", str(out)]) == 0
    methods = {method["name"]: method["runs"][0] for method in report_of(out)["methods"]}
    assert list(methods) == ["distill", "reinforce", "best of n"]
    assert methods["reinforce"]["stops"] == [0, 1]
    assert methods["best of n"]["stops"] == [1, 2]
    assert methods["distill"]["reward"][0] == methods["reinforce"]["reward"][0], "both begin where the other does"


@pytest.mark.parametrize("adapter", [{}, {"adapter": {"rank": 2, "merge": True}}], ids=["weights", "adapter"])
def test_a_policy_is_measured_as_it_was_at_its_step(
    adapter: dict[str, Any], settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    """After two of four steps it is what a run of two steps ends with, if the learning rate is constant."""
    constant = {"optimizer": {"learning_rate": 3e-3, "schedule": "constant"}}
    recipe, judged = (
        write("reinforce", settings["reinforce"] | constant | adapter),
        write("judged", evaluation, best_of=0),
    )
    points = []
    for steps, number in ((4, 2), (2, 1)):
        out = tmp_path / f"{steps}"
        more = ["--seeds", "1", "--set", f"reinforce:steps={steps}", f"eval:points={number}", "--out", str(out)]
        assert main(["compare", recipe, "--eval", judged, *more]) == 0
        points.append(json.loads((out / "reinforce/seed-0/points/step-000002.json").read_text(encoding="utf-8")))
    assert max(abs(kl) for kl in points[0]["kl"]) > 1e-3
    for key, values in points[0].items():
        assert values == pytest.approx(points[1][key], abs=1e-5), key


def test_killed_and_started_again_it_ends_with_the_same_bits(command: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command[-1] = "1"
    assert main([*command, "--out", str(whole)]) == 0

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "palate", *command, "--out", str(killed)]
    for until in ("ppo/seed-0/checkpoints/step-000002", "dpo/seed-0/metrics.jsonl"):
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (killed / until).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert not (killed / "dpo/seed-0/points").exists()
    assert main([*command, "--out", str(killed)]) == 0
    assert files_of(killed) == files_of(whole)
    tokens = [
        [row["tokens"] for name in METHODS for row in read_costs(out / name / "seed-0")] for out in (whole, killed)
    ]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == sum(
        (whole / name / "seed-0" / "metrics.jsonl").read_text(encoding="utf-8").count("\n") for name in METHODS
    )


def test_a_run_that_fails_is_shown_and_the_others_go_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    failing = ["--set", "ppo:min_entropy=50.0"]  # no policy has so much: it ends after three steps
    assert main([*command, "--out", str(out), "--seeds", "1", *failing]) == 0
    report = report_of(out)
    assert [(row["method"], row["seed"]) for row in report["failed"]] == [("ppo", 0)]
    assert "entropy has collapsed" in report["failed"][0]["reason"]
    assert {row["method"] for row in report["at_equal_kl"]} == {"reinforce", "dpo", "best of n"}
    assert "ppo, seed 0, failed" in capsys.readouterr().err
    assert "entropy has collapsed" in (out / "report.html").read_text(encoding="utf-8")

    assert main(["compare", command[1], *command[4:], "--out", str(tmp_path / "alone"), "--seeds", "1", *failing]) == 2
    assert "every run failed" in capsys.readouterr().err


def test_best_of_n_by_hand(settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path) -> None:
    """A recipe of best-of-n says how many and by what; with n = 2 of four every pair counts the same."""
    chooser = write(
        "best_of_n", {"model": "tiny", "prompts": settings["ppo"]["prompts"], "rewards": [{"length": 2.0}], "n": 2}
    )
    dpo, out = write("dpo", settings["dpo"]), tmp_path / "out"
    judged = write("judged", evaluation)
    assert main(["compare", dpo, chooser, "--eval", judged, "--seeds", "1", "--out", str(out)]) == 0
    pool = json.loads((out / "best-of-n/seed-0.json").read_text())
    (key, rewards), judge = next(iter(pool["rewards"].items())), np.array(pool["judge"])
    assert json.loads(key) == [{"length": 2.0}]
    scores = np.array(rewards)
    assert scores.shape == judge.shape == (HELD_OUT, 2)
    best = np.where(scores[:, 0] == scores[:, 1], judge.mean(1), judge[np.arange(HELD_OUT), scores.argmax(1)])
    (run,) = report_of(out)["methods"][1]["runs"]
    assert run["judge"] == pytest.approx([judge.mean(), best.mean()])
    assert run["reward"] == pytest.approx([scores.mean(), scores.max(1).mean()])
    assert run["kl_bound"] == pytest.approx([0, np.log(2) - 0.5])
    assert 0 <= run["kl"][1] <= run["kl_bound"][1]


def test_an_estimate_leaves_nothing(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--out", str(tmp_path / "out"), "--estimate"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [*METHODS, "training, 2 seeds"]
    assert not (tmp_path / "out").exists()


def test_at_a_kl_of_ones_own_choice(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), "--seeds", "1", "--at-kl", "900"]) == 0
    report = report_of(out)
    assert report["at_kl"] == pytest.approx(900)
    assert [row["seeds"] for row in report["at_equal_kl"]] == [0, 0, 0, 0]
    assert "does not get there" in (out / "report.html").read_text(encoding="utf-8")
