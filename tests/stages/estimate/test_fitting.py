"""What is said before a run, when it is not begun, and which setting helps then."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from palate import recipe as recipes
from palate.cli import main
from palate.errors import MachineError, RecipeError
from palate.lm import model as lm_model
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import sketch_model
from palate.machine import gb
from palate.recipe import SFTRecipe, load_recipe, parse_recipe
from palate.run.directory import Run
from palate.stages import sft
from palate.stages.estimate import fitting
from palate.stages.estimate.workload import Workload
from palate.stages.reinforcement import reinforce

MB = 10**6


@pytest.fixture
def sft_recipe(files: dict[str, str]) -> Callable[..., SFTRecipe]:
    def make(**changes: Any) -> SFTRecipe:
        tree = {
            "model": files["model"],
            "precision": "fp32",
            "data": {"path": files["demonstrations"]},
            "batch_size": 8,
        }
        return parse_recipe(SFTRecipe, tree | changes)

    return make


def short_of(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "left", lambda device: room)


@pytest.mark.parametrize("stage", ["sft", "reward", "reinforce", "best-of-n", "eval"])
def test_an_estimate_alone_leaves_nothing_behind(
    stage: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tree: dict[str, Any] = {"model": "tiny", "precision": "fp32", "frozen_layers": 1}
    if stage in ("best-of-n", "eval"):
        tree = {"model": "tiny", "precision": "fp32", "prompts": {"path": files["prompts"]}}
        tree |= {"sampling": {"max_new_tokens": 4}, "microbatch_tokens": "auto"}
        tree |= {"baseline": "tiny", "judge": {"length": 3.0}} if stage == "eval" else {"rewards": [{"length": 3.0}]}
    elif stage == "reinforce":
        tree |= {"prompts": {"path": files["prompts"]}, "rewards": [{"length": 3.0}], "steps": 9}
        tree |= {"sampling": {"max_new_tokens": 4}, "prompts_per_step": 2}
    else:
        tree |= {"data": {"path": files["demonstrations" if stage == "sft" else "rankings"]}}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert main([stage, "recipe.toml", "--estimate"]) == 0
    said = capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before
    assert "finished" not in said.err
    if stage in ("best-of-n", "eval"):
        assert re.search(r"^  weights +\d+\.\d MB$", said.out, flags=re.M)
        assert re.search(r"^microbatch_tokens = 16384$", said.out, flags=re.M)
        assert re.search(r"^tokens drawn and scored, at most: [\d,]+$", said.out, flags=re.M)
        return
    for part in ("weights", "gradients", "optimizer", "trunk", "activations"):
        assert re.search(rf"^  {part} +\d+\.\d MB$", said.out, flags=re.M) or part == "gradients"
    assert re.search(r"^tokens in \d+ steps: [\d,]+$", said.out, flags=re.M)
    assert re.search(r"^time, from two steps here: \d+\.\d+ s a step, \d+:\d\d in all$", said.out, flags=re.M)


def test_every_run_says_it_in_short(
    sft_recipe: Callable[..., SFTRecipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = sft_recipe(model="tiny")
    sft.train(recipe, Run.open(tmp_path / "run", recipe))
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["memory", "tokens"]


@pytest.mark.parametrize("room", [13 * MB, 8 * MB, 4 * MB])
def test_what_is_named_makes_it_fit(
    room: int, sft_recipe: Callable[..., SFTRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without room ends before its weights are read; with any of the settings that are named it goes on."""
    short_of(room, monkeypatch)
    monkeypatch.setattr(sft, "load_language_model", lambda *_, **__: pytest.fail("weights were read"))
    recipe = sft_recipe()
    with pytest.raises(MachineError, match="this run needs") as error:
        sft.train(recipe, Run.open(tmp_path / "run", recipe))
    message = str(error.value)
    assert f"{gb(room)} are left here" in message
    assert "\n" not in message
    advice = message.partition(": set ")[2].split(", or ")
    assert advice
    for number, settings in enumerate(advice):
        changes = [change.replace(" ", "") for change in settings.split(" and ")]
        path = tmp_path / f"{number}.toml"
        path.write_text(tomli_w.dumps(recipe.model_dump(exclude_none=True)), encoding="utf-8")
        changed = load_recipe(SFTRecipe, path, changes)
        with pytest.raises(pytest.fail.Exception, match="weights were read"):
            sft.train(changed, Run.open(tmp_path / f"run-{number}", changed))


def test_a_run_without_any_hope_says_so(
    sft_recipe: Callable[..., SFTRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of(MB, monkeypatch)
    recipe = sft_recipe()
    with pytest.raises(MachineError, match="take a smaller model"):
        sft.train(recipe, Run.open(tmp_path / "run", recipe))


def test_slots_are_named_where_the_cache_is_too_large(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {
        "model": files["model"],
        "precision": "fp32",
        "prompts": {"path": files["prompts"]},
        "sampling": {"max_new_tokens": 500, "num_slots": 16},
        "rewards": [{"length": 3.0}],
        "prompts_per_step": 4,
        "microbatch_tokens": 256,
        "frozen_layers": 3,
    }
    recipe = parse_recipe(recipes.ReinforceRecipe, tree)
    told: list[Workload] = []
    monkeypatch.setattr(fitting, "say", lambda run, work, peak, room: told.append(work) or pytest.fail("enough"))
    with pytest.raises(pytest.fail.Exception):
        reinforce.train(recipe, Run.open(tmp_path / "whole", recipe))
    peak = told[0].peak
    others = max(moment.total for moment in told[0].moments() if "cache" not in moment.parts)
    room = max(others, peak.total - peak.parts["cache"] // 2)
    assert room < peak.total
    short_of(room, monkeypatch)
    monkeypatch.setattr(fitting, "say", lambda *_: None)
    with pytest.raises(MachineError, match=r"set sampling\.num_slots = 8"):
        reinforce.train(recipe, Run.open(tmp_path / "run", recipe))


def test_a_chosen_microbatch_is_the_largest_that_fits_and_stays(
    sft_recipe: Callable[..., SFTRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = sft_recipe(microbatch_tokens="auto", batch_size=24, epochs=2)
    short_of(28 * MB, monkeypatch)
    run = Run.open(tmp_path / "run", chosen)
    used: list[int] = []
    told: list[Workload] = []
    monkeypatch.setattr(fitting, "say", lambda run, work, peak, room: told.append(work))
    original = sft.Optimizer.step

    def stop(self: Any, step: int) -> dict[str, float]:
        if step == 1 and not used:
            used.append(1)
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(sft.Optimizer, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        sft.train(chosen, run)
    del run
    settled = json.loads((tmp_path / "run" / "lineage.json").read_text())["settled"]
    number = settled["microbatch_tokens"]
    assert fitting.FEWEST_TOKENS < number < fitting.MOST_TOKENS
    assert told[0].peak.total <= fitting.SHARE * 28 * MB
    assert 'microbatch_tokens = "auto"' in (tmp_path / "run" / "recipe.toml").read_text()

    short_of(10**12, monkeypatch)
    sft.train(chosen, Run.open(tmp_path / "run", chosen, resume=True))
    assert json.loads((tmp_path / "run" / "lineage.json").read_text())["settled"] == settled
    assert told[1].peak == told[0].peak

    sft.train(chosen, Run.open(tmp_path / "roomy", chosen))
    assert json.loads((tmp_path / "roomy" / "lineage.json").read_text())["settled"] != settled


def test_a_microbatch_is_as_large_as_what_needs_more_anyway_allows() -> None:
    """Sampling, say: with smaller ones than that nothing would be won."""
    recipe = parse_recipe(SFTRecipe, {"data": {"path": "nowhere"}})

    def workload(recipe: SFTRecipe) -> Any:
        return SimpleNamespace(peak=SimpleNamespace(total=max(90, recipe.microbatch_tokens // 16)))

    for room, expected in ((100, 1024), (120, 1024), (10**4, 16384), (1300, 16384), (1000, 8192)):
        assert fitting.largest_microbatch(recipe, room, workload) == expected


def test_a_microbatch_is_a_number_or_auto(sft_recipe: Callable[..., SFTRecipe]) -> None:
    assert sft_recipe(microbatch_tokens="auto").model_dump()["microbatch_tokens"] == "auto"
    for wrong in (0, -1, "many"):
        with pytest.raises(RecipeError, match="microbatch_tokens"):
            sft_recipe(microbatch_tokens=wrong)


def test_a_trunk_that_is_too_large_is_not_kept_and_it_is_said(
    sft_recipe: Callable[..., SFTRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes: 4 for each number of a row, whatever the width."""
    monkeypatch.setattr(lm_model, "TRUNK_BYTES", 100_000)
    recipe = sft_recipe(model="tiny", frozen_layers=1)
    run = Run.open(tmp_path / "run", recipe)
    sft.train(recipe, run)
    assert any("is not kept" in note for note in run.notes)


@pytest.fixture
def written(files: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    def write(**changes: Any) -> str:
        tree = {"model": files["model"], "precision": "bf16"} | changes
        tree |= {} if "prompts" in changes else {"data": {"path": files["demonstrations"]}}
        (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
        return str(tmp_path / "recipe.toml")

    return write


def test_another_machine_is_asked_about(written: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its memory alone decides, and a GPU's is counted by a GPU's rules: no copies."""

    def said(*options: str) -> str:
        assert main(["sft", written(microbatch_tokens="auto"), "--estimate", *options]) == 0
        return capsys.readouterr().out

    small, large, gpu = said("--memory", "16MB"), said("--memory", "1 GB"), said("--memory", "1GiB", "--gpu")
    assert "asked about: 16.0 MB" in small
    assert int(re.findall(r"microbatch_tokens = (\d+)", small)[0]) < 4096
    assert "microbatch_tokens = 16384" in large
    assert "asked about: 1.0 GB" in large
    assert "asked about: 1.1 GB" in gpu
    assert "packed copies" in large
    assert "packed copies" not in gpu
    activations = [float(re.findall(r"activations +([\d.]+) MB", text)[0]) for text in (large, gpu)]
    assert activations[0] < activations[1]  # between a block's inner products a GPU keeps every result, in fp32
    assert all("time: not measured; it was asked about another machine" in text for text in (small, large, gpu))
    assert "it does not fit: " in said("--memory", "1MB")


@pytest.mark.parametrize("options", [["--memory", "much"], ["--memory", "24 apples"]])
def test_a_size_is_a_number_and_a_unit(
    options: list[str], written: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sft", written(), "--estimate", *options])
    assert ended.value.code == 2
    assert "is no size; write it as 24GB" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--memory", "24GB"], ["--gpu"]])
def test_another_machine_is_asked_about_in_estimates_alone(
    option: list[str], written: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sft", written(), *option])
    assert ended.value.code == 2
    assert "go with --estimate" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_config_and_a_tokenizer_are_enough(
    stage: str,
    files: dict[str, str],
    written: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same numbers as with the weights; only the time has to be left open."""
    alone = Path(shutil.copytree(files["model"], tmp_path / "alone"))
    (alone / "model.safetensors").unlink()
    told = []
    for model in (files["model"], str(alone)):
        changes: dict[str, Any] = {"model": model, "adapter": {"rank": 4}}
        if stage == "ppo":
            changes |= {"prompts": {"path": files["prompts"]}, "rewards": [{"model": model}], "steps": 2}
            changes |= {"sampling": {"max_new_tokens": 8}, "prompts_per_step": 4}
        assert main([stage, written(**changes), "--estimate"]) == 0
        told.append(capsys.readouterr().out.splitlines())
    whole, config = told
    assert [line for line in config if "memory" in line or line.startswith("  ")] == [
        line for line in whole if "memory" in line or line.startswith("  ")
    ]
    assert whole[-1].startswith("time, from two steps here")
    assert config[-1].startswith("time: not measured; ")
    assert "no .safetensors file" in config[-1]


def test_a_config_says_how_precise_weights_are(files: dict[str, str], tmp_path: Path) -> None:
    alone = Path(shutil.copytree(files["model"], tmp_path / "alone"))
    (alone / "model.safetensors").unlink()
    config = json.loads((alone / "config.json").read_text())
    for dtype in ("bfloat16", "float32"):
        (alone / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
        sketch = sketch_model(str(alone), LanguageModel)
        assert {str(weight.dtype) for weight in sketch.model.parameters()} == {f"torch.{dtype}"}
