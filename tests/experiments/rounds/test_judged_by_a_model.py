"""Rounds in which a model judges by a constitution: whose judgements they are, killed and resumed, and its mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.rounds.conftest import read, written
from tests.experiments.rounds.test_rounds import files_of, inputs_of, moved, recipe_of, report_of, weights_of
from tests.scripted_endpoint import ScriptedEndpoint, serving

from palate.cli import main
from palate.rewards.judges.constitutions import read_constitution

CONSTITUTION = """
[[principles]]
name = "short"
compare = "Which answer is shorter?"

[[principles]]
name = "calm"
compare = "Which answer is calmer?"
"""


@pytest.fixture
def judged(tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Eight responses to a prompt have so many pairs that judging takes two steps."""
    (tmp_path / "constitution.toml").write_text(CONSTITUTION, encoding="utf-8")
    del tree["taste"]
    tree["sample"]["responses_per_prompt"] = 8
    tree["evaluation"]["judge"] = {"function": "palate.simulated.tastes:short"}
    tree["judge"] = {"constitution": str(tmp_path / "constitution.toml"), "model": "tiny", "verdict": "mean"}
    return tree | {"labelers": "ai", "control": False, "prompts_per_round": 3}


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with serving() as served:
        yield served


def all_of(out: Path) -> dict[str, bytes]:
    """With what the judge was asked and said."""
    verdicts = {str(path.relative_to(out)): path.read_bytes() for path in out.glob("round-*/judged/*.jsonl")}
    return files_of(out) | {name: text for name, text in verdicts.items() if "metrics" not in name}


def test_what_a_model_judges_is_marked_as_its_own(judged: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["rounds", written(judged, tmp_path / "rounds.toml"), "--out", str(out)]) == 0
    version = read_constitution(judged["judge"]["constitution"]).version
    for number in (1, 2):
        here = out / f"round-{number}"
        rankings = read(here / "rankings.jsonl")
        assert len(rankings) == report_of(here / "judged")["pairs"] > 0
        marks = {(row["source"], row["labeler"], row["guideline_version"]) for row in rankings}
        assert marks == {("ai", "ai:tiny", version)}
        drawn = {row["prompt"]["messages"][0]["content"] for row in read(here / "samples" / "candidates.jsonl")}
        assert {row["prompt"]["messages"][0]["content"] for row in rankings} == drawn
        assert recipe_of(here / "judged")["candidates"]["path"] == str(here / "samples" / "candidates.jsonl")
    seeds = [recipe_of(out / f"round-{number}" / "judged")["seed"] for number in (1, 2)]
    assert seeds == [recipe_of(out / f"round-{number}" / "samples")["seed"] for number in (1, 2)]
    paths = [str(out / f"round-{number}" / "rankings.jsonl") for number in (1, 2)]
    assert recipe_of(out / "round-2" / "reward")["data"]["path"] == ",".join(paths)
    # the same model in every round, whatever the policy has become
    models = [inputs_of(out / f"round-{number}" / "judged")["model"] for number in (1, 2)]
    assert models[0] == models[1] == inputs_of(out / "round-1" / "samples")["model"]
    assert models[0] != weights_of(out / "round-1" / "policy")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "round 2: " in page
    assert "pairs were judged by a model" in page


def test_killed_while_it_judges_it_ends_with_the_same_bits(judged: dict[str, Any], tmp_path: Path) -> None:
    """Inside a step, between two steps, and between the judge and what learns from it."""
    recipe = written(judged, tmp_path / "rounds.toml")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["rounds", recipe, "--out", str(whole)]) == 0
    assert len(read(whole / "round-1" / "judged" / "metrics.jsonl")) == 2

    words = [sys.executable, "-m", "palate", "rounds", recipe, "--out", str(killed)]
    for until in (
        "round-1/judged/verdicts.jsonl",
        "round-1/judged/checkpoints/step-000001",
        "round-1/rankings.jsonl",
        "round-2/judged/checkpoints/step-000001",
    ):
        process = subprocess.Popen(
            words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not (killed / until).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"it ended before {until}"
    assert not (killed / "round-2" / "rankings.jsonl").exists()
    assert main(["rounds", recipe, "--out", str(killed)]) == 0
    assert moved(all_of(killed), killed, whole) == all_of(whole)


def test_a_model_elsewhere_judges(judged: dict[str, Any], tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    """What is asked is the round's own candidates; what it says is what is learned."""
    out = tmp_path / "out"
    judged |= {"rounds": 1, "judge": {**judged["judge"], "model": "big", "endpoint": {"url": endpoint.url}}}
    assert main(["rounds", written(judged, tmp_path / "rounds.toml"), "--out", str(out)]) == 0
    rankings = read(out / "round-1" / "rankings.jsonl")
    assert {row["labeler"] for row in rankings} == {"ai:big"}
    for row in rankings:  # the endpoint prefers the longer answer, wherever it stands
        first, second = (len(response["text"]) for response in row["responses"])
        assert row["ranks"] == ([1, 1] if first == second else [1, 2] if first > second else [2, 1])


def test_a_model_without_a_preference_teaches_nothing(
    judged: dict[str, Any], tmp_path: Path, endpoint: ScriptedEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """It always takes the first place: every verdict is a flip, and nothing learns from it."""
    out = tmp_path / "out"
    endpoint.rule = lambda first, second, asked: 0.9
    del judged["judge"]["verdict"]
    judged["judge"] |= {"model": "big", "endpoint": {"url": endpoint.url}}
    assert main(["rounds", written(judged, tmp_path / "rounds.toml"), "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
    assert len(lines) == 1
    assert "pairs all are ties, 100% because it chose another answer in each order" in lines[0]
    assert not (out / "round-1" / "reward").exists()


Change = Callable[[dict[str, Any]], object]
MISTAKES: dict[str, tuple[Change, str]] = {
    "no table": (lambda tree: tree.update(judge={}), '[judge] and labelers = "ai" go together'),
    "a table for nobody": (
        lambda tree: tree.update(labelers="simulated"),
        '[judge] and labelers = "ai" go together',
    ),
    "a taste": (lambda tree: tree.update(taste={"agreement": 0.9}), 'taste belongs to labelers = "simulated"'),
    "nothing to measure by": (
        lambda tree: tree.update(evaluation={}),
        "a model judges in each round, but what is measured needs a judge",
    ),
    "a filled in key": (
        lambda tree: tree["judge"].update(candidates={"path": "these.jsonl"}),
        "[judge]: candidates is filled in by the rounds; leave it out",
    ),
    "a key": (lambda tree: tree["judge"].update(verdct="mean"), "[judge]: unknown key 'verdct'"),
    "a constitution": (lambda tree: tree["judge"].update(constitution="nowhere.toml"), "nowhere.toml: no constitution"),
    "a model": (lambda tree: tree["judge"].update(model="nowhere"), "nowhere"),
    "a key of an endpoint": (
        lambda tree: tree["judge"].update(endpoint={"url": "http://127.0.0.1:9/v1", "key_variable": "NO_SUCH_KEY"}),
        "NO_SUCH_KEY is not set in the environment",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_done(
    name: str, judged: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = MISTAKES[name]
    change(judged)
    out = tmp_path / "out"
    assert main(["rounds", written(judged, tmp_path / "rounds.toml"), "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(out.glob("round-*/*/metrics.jsonl"))


def test_an_estimate_counts_the_judge(
    judged: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = written(judged, tmp_path / "rounds.toml"), tmp_path / "out"
    assert main(["rounds", recipe, "--out", str(out), "--estimate"]) == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["sample", "judge", "reward", "policy", "measuring", "2 rounds"]
    judged["judge"] |= {"model": "big", "endpoint": {"url": "http://127.0.0.1:9/v1"}}
    assert main(["rounds", written(judged, tmp_path / "elsewhere.toml"), "--out", str(out), "--estimate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "judge: the model runs elsewhere, not timed" in lines
    assert lines[-1].endswith(", as far as it could be timed")
    assert not out.exists()
