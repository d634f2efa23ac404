"""Whole rounds of the tiny model through the real command: what each starts from, resumed to the same bits, waiting."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.rounds.conftest import FRESH, HELD_OUT, put, read, written

from palate.cli import main
from palate.experiments.rounds.judging import FROM_PEOPLE
from palate.recipe import Taste
from palate.records import Candidates
from palate.simulated.labelers import rank_candidates

MODEL = "model/model.safetensors"


def recipe_of(directory: Path) -> dict[str, Any]:
    return tomllib.loads((directory / "recipe.toml").read_text(encoding="utf-8"))


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def weights_of(directory: Path) -> str:
    return hashlib.blake2b((directory / MODEL).read_bytes(), digest_size=16).hexdigest()


def inputs_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "lineage.json").read_text(encoding="utf-8"))["inputs"]
    return found


def files_of(out: Path) -> dict[str, bytes]:
    """Everything that is a function of recipe and seed alone."""
    kept = [path for pattern in ("**/model/*", "round-*/*.json*", "*.jsonl") for path in out.glob(pattern)]
    kept += out.glob("round-*/samples/candidates.jsonl")
    return {str(path.relative_to(out)): path.read_bytes() for path in kept if path.is_file()}


def moved(files: dict[str, bytes], old: Path, new: Path) -> dict[str, bytes]:
    """The same with another directory's name in the texts."""
    return {name: text.replace(str(old).encode(), str(new).encode()) for name, text in files.items()}


def test_two_rounds_and_a_third(tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, recipe = tmp_path / "out", written(tree, tmp_path / "rounds.toml")
    assert main(["rounds", recipe, "--out", str(out)]) == 0
    first, second = out / "round-1", out / "round-2"

    # prompts: fresh ones each time, and what is measured on trains nothing
    asked = [{json.dumps(row["messages"]) for row in read(each / "prompts.jsonl")} for each in (first, second)]
    measured = {json.dumps(row["messages"]) for row in read(out / "held_out_prompts.jsonl")}
    assert [len(each) for each in asked] == [4, 4]
    assert len(measured) == HELD_OUT
    assert not asked[0] & asked[1]
    assert not (asked[0] | asked[1]) & measured
    for each, own in zip((first, second), asked, strict=True):
        for stage in ("samples", "policy"):
            assert recipe_of(each / stage)["prompts"]["path"] == str(each / "prompts.jsonl")
        for file in ("rankings.jsonl", "samples/candidates.jsonl"):
            assert {json.dumps(row["prompt"]["messages"]) for row in read(each / file)} == own

    # the second round's candidates are the first round's policy's, weight for weight
    policy = weights_of(first / "policy")
    assert inputs_of(second / "samples")["model"] == policy
    drawn = {
        each["provenance"]["checkpoint"]
        for row in read(second / "samples" / "candidates.jsonl")
        for each in row["responses"]
    }
    assert drawn == {policy}
    assert inputs_of(first / "samples")["model"] != policy
    assert inputs_of(second / "policy")["model"] == policy

    # judgements accumulate, and the control learns from the first ones
    paths = [str(each / "rankings.jsonl") for each in (first, second)]
    assert recipe_of(first / "reward")["data"]["path"] == paths[0]
    assert recipe_of(second / "reward")["data"]["path"] == ",".join(paths)
    assert [recipe_of(second / name)["rewards"][0]["model"] for name in ("policy", "control")] == [
        str(second / "reward"),
        str(first / "reward"),
    ]
    ours, control = (recipe_of(second / name) for name in ("policy", "control"))
    del ours["rewards"], control["rewards"]
    assert ours == control, "they differ in nothing else"
    assert ours["seed"] != recipe_of(first / "policy")["seed"]
    assert ours["reference"] == "tiny"
    assert weights_of(second / "policy") != weights_of(second / "control")

    # the figures
    report = report_of(out)
    assert [each["round"] for each in report["rounds"]] == [1, 2]
    assert [each["judgements"] for each in report["rounds"]] == [8, 8]
    assert [each["learned_from"] for each in report["rounds"]] == [8, 16]
    assert report["rounds"][0]["control"] is None
    told = report["rounds"][1]
    assert list(told["foretold"]) == ["1"]
    assert 0 <= told["foretold"]["1"]["accuracy"] <= 1
    assert told["kl"] > 0
    assert told["minus_control"] == pytest.approx(told["win_rate"] - told["control"]["win_rate"])
    assert report["win_rate"] == told["win_rate"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "1 are about conversations that are measured on" in page
    assert f"{FRESH - 8} are in no round" in page

    # a round's policy is what its stage's own command makes
    alone = tmp_path / "alone"
    assert main(["reinforce", str(second / "policy" / "recipe.toml"), "--out", str(alone)]) == 0
    assert (alone / MODEL).read_bytes() == (second / "policy" / MODEL).read_bytes()

    # once more: nothing is done; a round more: only that
    before, times = files_of(out), {path: path.stat().st_mtime_ns for path in out.glob("round-*/*/model/*")}
    capsys.readouterr()
    assert main(["rounds", recipe, "--out", str(out)]) == 0
    assert "nothing is left to do" in capsys.readouterr().err
    assert main(["rounds", recipe, "--out", str(out), "--set", "rounds=3"]) == 2
    assert "prompts_per_round = 4 in 3 rounds needs 12 prompts, and there are 9" in capsys.readouterr().err
    assert main(["rounds", recipe, "--out", str(out), "--set", "control=false"]) == 2
    assert "control: True is now False" in capsys.readouterr().err
    assert files_of(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_more_rounds_may_be_asked_for_later(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree |= {"rounds": 1, "control": False}
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    recipe = written(tree, tmp_path / "rounds.toml")
    assert main(["rounds", recipe, "--out", str(whole), "--set", "rounds=2"]) == 0
    for rounds in ("1", "2"):
        assert main(["rounds", recipe, "--out", str(grown), "--set", f"rounds={rounds}"]) == 0
    assert moved(files_of(grown), grown, whole) == files_of(whole)
    assert not (grown / "round-2" / "control").exists()
    assert recipe_of(grown)["rounds"] == 2

    even, tree["prompts_per_round"] = tmp_path / "even", 0
    recipe = written(tree, tmp_path / "even.toml")
    assert main(["rounds", recipe, "--out", str(even)]) == 0
    capsys.readouterr()
    assert main(["rounds", recipe, "--out", str(even), "--set", "rounds=2"]) == 2
    assert "all prompts were divided over 1 rounds" in capsys.readouterr().err


def test_killed_and_started_again_it_ends_with_the_same_bits(tree: dict[str, Any], tmp_path: Path) -> None:
    """Inside a reward model, inside a policy, inside the control, and between two stages."""
    recipe = written(tree, tmp_path / "rounds.toml")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["rounds", recipe, "--out", str(whole)]) == 0

    words = [sys.executable, "-m", "palate", "rounds", recipe, "--out", str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for until in (
        "round-1/reward/checkpoints/step-000001",
        "round-1/policy/checkpoints/step-000001",
        "round-2/rankings.jsonl",
        "round-2/control/metrics.jsonl",
    ):
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while not (killed / until).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"it ended before {until}"
    assert not (killed / "round-2" / "control_answers.jsonl").exists()
    assert main(["rounds", recipe, "--out", str(killed)]) == 0
    assert moved(files_of(killed), killed, whole) == files_of(whole)
    left = [[{**each, "seconds": 0} for each in report_of(out)["rounds"]] for out in (whole, killed)]
    assert left[0] == left[1]


def test_people_are_waited_for_in_every_round(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del tree["taste"]
    tree |= {"labelers": "people", "control": False}
    tree["evaluation"]["judge"] = {"function": "palate.simulated.tastes:short"}
    out, command = tmp_path / "out", ["rounds", written(tree, tmp_path / "rounds.toml"), "--out", str(tmp_path / "out")]

    def said(number: int, least: int = 0) -> None:
        """People judge a round's candidates, all but the first few."""
        here = out / f"round-{number}"
        lines = (here / "samples" / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
        taste = Taste(function="palate.simulated.tastes:short", labels_per_prompt=1)
        found = rank_candidates([Candidates.model_validate_json(line) for line in lines], taste, seed=0)
        put(here / FROM_PEOPLE, [ranking.model_copy(update={"source": "human"}) for ranking in found[least:]])

    for number in (1, 2):
        capsys.readouterr()
        assert main(command) == 0
        waits = [line for line in capsys.readouterr().err.splitlines() if "waits for people" in line]
        assert len(waits) == 1
        assert f"round-{number}/{FROM_PEOPLE}" in waits[0]
        assert not (out / f"round-{number}" / "reward").exists()
        said(number, least=1)
        assert main(command) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
        assert len(lines) == 1
        assert "judgements of 3 of 4 prompts, 1 are missing" in lines[0]
        said(number)
    assert main(command) == 0
    assert report_of(out)["rounds"][1]["learned_from"] == 8
    assert all(row.get("source", "human") == "human" for row in read(out / "round-2" / "rankings.jsonl"))


@pytest.mark.parametrize("stage", ["ppo", "raft", "online_dpo", "dpo"])
def test_other_ways_to_learn(stage: str, tree: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    tree["policy"]["stage"] = stage
    if stage == "dpo":
        for key in ("steps", "prompts_per_step", "responses_per_prompt"):
            del tree["policy"][key]
        del tree["reward"]
        tree |= {"kl_reference": "round", "sampling": {"max_new_tokens": 6, "temperature": 0.9}}
    assert main(["rounds", written(tree, tmp_path / "rounds.toml"), "--out", str(out)]) == 0
    second = out / "round-2"
    assert inputs_of(second / "policy")["model"] == weights_of(out / "round-1" / "policy")
    assert weights_of(second / "policy") != weights_of(second / "control")
    told = report_of(out)["rounds"][1]
    assert (told["accuracy"] is None) == (stage == "dpo") == (not told["foretold"])
    if stage == "dpo":
        paths = [str(out / f"round-{number}" / "rankings.jsonl") for number in (1, 2)]
        assert recipe_of(second / "policy")["data"]["path"] == ",".join(paths)
        assert recipe_of(second / "control")["data"]["path"] == paths[0]
        assert recipe_of(second / "policy")["temperature"] == 0.9


def test_an_estimate_leaves_nothing(tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["rounds", written(tree, tmp_path / "rounds.toml"), "--out", str(out), "--estimate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        *("sample", "reward", "policy", "measuring", "2 rounds and 1 of the control"),
    ]
    assert f"{4 * HELD_OUT * 2} responses of 4 policies" in lines[3]
    assert not out.exists()


Change = Callable[[dict[str, Any]], object]
MISTAKES: dict[str, tuple[Change, str]] = {
    "a key": (
        lambda tree: tree.update(kl_referense="first"),
        "unknown key 'kl_referense'; did you mean 'kl_reference'?",
    ),
    "a key of a table": (
        lambda tree: tree["policy"].update(setps=2),
        "[policy]: unknown key 'setps'; did you mean 'steps'?",
    ),
    "a value in a table": (lambda tree: tree["reward"].update(epochs=0), "[reward]: 'epochs': Input should be greater"),
    "a filled in key": (
        lambda tree: tree["policy"].update(model="tiny"),
        "[policy]: model is filled in by the rounds; leave it out",
    ),
    "no stage": (lambda tree: tree["policy"].pop("stage"), '[policy]: write stage = "..." into it, one of reinforce'),
    "another stage": (lambda tree: tree["policy"].update(stage="sft"), '[policy]: write stage = "..." into it, one of'),
    "a taste": (lambda tree: tree.update(taste={"function": "nowhere:nothing"}), "no such judge"),
    "a judge": (
        lambda tree: tree["evaluation"].update(judge={"function": "nowhere:nothing"}),
        "no such judge",
    ),
    "people without a judge": (
        lambda tree: tree.update(labelers="people", taste={}),
        "what is measured needs a judge: name one in [evaluation]",
    ),
    "people with a taste": (
        lambda tree: tree.update(labelers="people", evaluation={"judge": {"length": 2.0}}),
        'taste belongs to labelers = "simulated"',
    ),
    "simulated people": (lambda tree: tree.update(least_ranked=0.5), 'least_ranked belongs to labelers = "people"'),
    "dpo against the first": (
        lambda tree: tree.update(policy={"stage": "dpo"}, reward={}),
        'stage = "dpo" is held against where it starts: set kl_reference = "round"',
    ),
    "dpo with a reward": (
        lambda tree: tree.update(policy={"stage": "dpo"}, kl_reference="round"),
        'stage = "dpo" learns from judgements alone',
    ),
    "objectives": (
        lambda tree: tree["reward"].update(objectives=[{"name": "a"}, {"name": "b"}]),
        "a round learns one objective",
    ),
    "one response": (lambda tree: tree["sample"].update(responses_per_prompt=1), "raise responses_per_prompt"),
    "too few prompts": (lambda tree: tree.update(prompts_per_round=5), "in 2 rounds needs 10 prompts, and there are 9"),
    "a model": (lambda tree: tree.update(model="nowhere"), "nowhere"),
    "layers": (lambda tree: tree.update(frozen_layers=99), "frozen_layers = 99"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_done(
    name: str, tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = MISTAKES[name]
    change(tree)
    out = tmp_path / "out"
    assert main(["rounds", written(tree, tmp_path / "rounds.toml"), "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(out.glob("round-*/*/metrics.jsonl"))


def test_changed_prompts_are_refused_once_it_has_begun(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del tree["taste"]
    tree |= {"labelers": "people", "evaluation": {"judge": {"length": 2.0}}}
    command = ["rounds", written(tree, tmp_path / "rounds.toml"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    path = Path(tree["prompts"]["path"])
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    assert main(command) == 2
    assert "has changed since this run began" in capsys.readouterr().err
