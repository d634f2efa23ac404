"""Every stage that trains, in several processes: the metrics, gradients and weights of one, up to rounding."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.cluster.gangs import in_gang
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from palate import recipe as recipes
from palate.cluster import sharding
from palate.cluster.gang import Gang
from palate.commands import STAGES
from palate.errors import PeerError
from palate.lm import sources
from palate.lm.adapters import adapted
from palate.lm.model import Model, ScalarModel
from palate.lm.optim import Optimizer
from palate.recipe import parse_recipe
from palate.run.directory import Run
from palate.run.world import OneProcess, entered
from palate.stages import common

DRAWING = ("sample", "best-of-n", "eval")
DIVIDED = [stage.name for stage in STAGES if stage.divides and stage.name not in DRAWING]
UNEVEN: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 9},
    "kto": {"batch_size": 11},
    "pretrain": {"batch_size": 5, "steps": 3},
    "reward": {"batch_responses": 12},
    "dpo": {"batch_responses": 12},
    "distill": {"prompts_per_step": 3},
    "ppo": {"prompts_per_step": 3, "value_optimizer": {"learning_rate": 1e-3}, "value_warmup": 1},
}
"""Batches that no number of processes divides."""
SHARDED = {"cluster": {"shard": "weights"}}


@pytest.fixture(scope="module")
def trees(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Small recipes by stage; each makes a few steps of several microbatches, one of which may be a process's own."""
    found = {}
    for name in DIVIDED:
        tree = settings[name] | {"optimizer": {"learning_rate": 1e-3}, "microbatch_tokens": 300}
        tree |= UNEVEN.get(name, {"prompts_per_step": 3})
        if "data" in tree and name != "pretrain":
            tree["data"] = tree["data"] | {"limit": 24}
        found[name] = tree
    return found


def perform(name: str, tree: Mapping[str, Any], directory: Path, *, resume: bool = False) -> None:
    """Run a stage here, without its pictures."""
    stage = next(each for each in STAGES if each.name == name)
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), tree)
    common.stage_report = lambda *_, **__: None  # type: ignore[assignment]
    getattr(import_module(stage.module), stage.function)(recipe, Run.open(directory, recipe, resume=resume))


@pytest.fixture(scope="module")
def alone(
    trees: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Mapping[str, Any]], Path]:
    """Runs of one process; each is made once."""
    made: dict[str, Path] = {}

    def run(name: str, more: Mapping[str, Any]) -> Path:
        key = f"{name} {json.dumps(more)}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("alone") / "run"
            in_one(made[key].parent, lambda: perform(name, trees[name] | more, made[key]))
        return made[key]

    return run


def in_one(directory: Path, work: Callable[[], None]) -> None:
    """In a process of its own, which is in no world but its own, so that nothing of this one is changed."""

    def apart(_: Gang) -> None:
        with entered(OneProcess()):
            work()

    (found,) = in_gang(1, directory / "gang", apart)
    assert found is None, found


@pytest.mark.parametrize("name", DIVIDED)
def test_two_processes_learn_what_one_does(
    name: str,
    trees: dict[str, dict[str, Any]],
    alone: Callable[[str, Mapping[str, Any]], Path],
    tmp_path: Path,
) -> None:
    """Batches are not divisible by two, and layers are frozen but in pretraining."""
    check(name, trees[name], {}, alone(name, {}), tmp_path, size=2)


@pytest.mark.parametrize("sharded", [{}, SHARDED], ids=["whole", "sharded"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ppo", {"adapter": {"rank": 2}, "frozen_layers": 0}),
        ("sft", {"batch_size": 2, "frozen_layers": 2}),
    ],
    ids=["ppo with adapters", "sft with nothing to do"],
)
def test_four_processes_do_too(
    name: str,
    more: dict[str, Any],
    sharded: dict[str, Any],
    trees: dict[str, dict[str, Any]],
    alone: Callable[[str, Mapping[str, Any]], Path],
    tmp_path: Path,
) -> None:
    """With adapters, and where a step has two sequences, so that two of the processes have nothing to do."""
    check(name, trees[name], more | sharded, alone(name, more), tmp_path, size=4)


@pytest.mark.parametrize("name", DIVIDED)
def test_sharded_weights_learn_what_whole_ones_do(
    name: str,
    trees: dict[str, dict[str, Any]],
    alone: Callable[[str, Mapping[str, Any]], Path],
    tmp_path: Path,
) -> None:
    check(name, trees[name], SHARDED, alone(name, {}), tmp_path, size=2)


@pytest.mark.parametrize("name", DIVIDED)
def test_no_stage_reads_a_model_that_it_divides(
    name: str, trees: dict[str, dict[str, Any]], teacher: str, tmp_path: Path
) -> None:
    """Until then each lies in its file, but for adapters and scalar heads; and there is none that is not divided."""
    tree = trees[name] | SHARDED
    tree |= {"rewards": [{"model": "tiny"}]} if "rewards" in tree else {}
    tree |= {"overoptimization": {"held_out": [teacher]}} if name in ("ppo", "reinforce") else {}
    met: list[Model] = []
    load = sources.loaded._load

    def counted(*args: Any, **kwargs: Any) -> Any:
        met.append((found := load(*args, **kwargs)).model)
        return found

    def stop(models: Sequence[Model], **_: Any) -> None:
        assert set(met) <= set(models)
        for model in models:
            small = {id(weight) for each in adapted(model).values() for weight in each.parameters()}
            small |= {id(model.score.weight)} if isinstance(model, ScalarModel) else set()
            assert all(hasattr(weight, "going_to_be") or id(weight) in small for weight in model.parameters())
        raise Reached

    def work(_: Gang) -> None:
        sources.loaded._load = counted  # type: ignore[assignment]
        sharding.shard = stop
        perform(name, tree, tmp_path / "run")

    assert [type(found) for found in in_gang(2, tmp_path / "gang", work)] == [Reached, Reached]


class Reached(Exception):
    """Where a run divides its weights."""


@pytest.mark.parametrize("name", DRAWING)
def test_two_processes_draw_what_one_does(name: str, settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """And judge it alike; the files are those of one."""
    asked = {key: settings["reinforce"][key] for key in ("model", "prompts", "sampling", "precision")}
    asked["prompts"] = asked["prompts"] | {"limit": 5}
    trees = {
        "sample": asked,
        "best-of-n": asked | {"rewards": [{"length": 3.0}], "n": 3},
        "eval": asked | {"baseline": "tiny", "judge": {"length": 3.0}},
    }
    in_one(tmp_path, lambda: perform(name, trees[name], tmp_path / "one"))
    assert in_gang(2, tmp_path / "two gang", lambda _: perform(name, trees[name], tmp_path / "two")) == [None, None]
    files = ([path.name for path in sorted((tmp_path / each).iterdir())] for each in ("one", "two"))
    assert len({tuple(each) for each in files}) == 1
    one, two = (json.loads((tmp_path / each / "report.json").read_text(encoding="utf-8")) for each in ("one", "two"))
    for key, value in one.items():
        if isinstance(value, float) and key != "seconds":
            assert two[key] == pytest.approx(value, abs=1e-5), key
    if name == "sample":
        assert texts_of(tmp_path / "one" / "candidates.jsonl") == texts_of(tmp_path / "two" / "candidates.jsonl")
    elif name == "best-of-n":
        assert (tmp_path / "one" / "responses.jsonl").read_bytes() == (
            tmp_path / "two" / "responses.jsonl"
        ).read_bytes()
    else:
        assert one["texts"] == two["texts"]


@pytest.mark.parametrize(("size", "more"), [(2, {}), (1, {}), (2, SHARDED), (1, SHARDED), (4, SHARDED)])
def test_all_stop_at_once_and_a_checkpoint_suits_any_number(
    size: int, more: dict[str, Any], trees: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """One process of two is asked to stop. As many go on to the same bits, another number up to rounding."""
    tree = trees["ppo"] | {"steps": 4, "value_warmup": 0, "kl_target": 0.5, "kl_horizon": 50} | more
    assert in_gang(2, tmp_path / "gang 1", lambda _: perform("ppo", tree, tmp_path / "whole")) == [None, None]

    def stopped(gang: Gang) -> None:
        log = Run.log

        def logs(self: Run, step: int, metrics: Mapping[str, float]) -> None:
            log(self, step, metrics)
            if step == 1 and gang.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        Run.log = logs  # type: ignore[method-assign]
        perform("ppo", tree, tmp_path / "cut")

    found = in_gang(2, tmp_path / "gang 2", stopped)
    assert "stopped at step 2 of 4" in {str(each) for each in found if isinstance(each, KeyboardInterrupt)}
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("step-*")] == ["step-000002"]

    resumed = in_gang(size, tmp_path / "gang 3", lambda _: perform("ppo", tree, tmp_path / "cut", resume=True))
    assert resumed == [None] * size
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(cut[key], weight, rtol=1e-4, atol=5e-5) for key, weight in whole.items())
    same = all(torch.equal(cut[key], weight) for key, weight in whole.items())
    assert same or size != 2
    assert [row["step"] for row in metrics(tmp_path / "cut")] == [0, 1, 2, 3]


MOMENTS: dict[str, tuple[type, str, bool, int, int]] = {
    "before it writes its part": (HuggingFaceStorageWriter, "write_data", False, 1, 2),
    "when it has written it": (HuggingFaceStorageWriter, "write_data", True, 0, 2),
    "before the directory has its name": (Path, "replace", False, 0, 2),
    "when the directory has its name": (Path, "replace", True, 0, 4),
}
"""Of a checkpoint after step 4: what is called then, whether it is done, by whom, and the step that is gone on with."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_killed_in_a_sharded_checkpoint(
    moment: str, unharmed: dict[str, Tensor], trees: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """By SIGKILL, in the middle of its files: as many go on to the same bits, and once four do, up to rounding."""
    kind, called, done, doomed, begins = MOMENTS[moment]

    def killed(gang: Gang) -> None:
        call = getattr(kind, called)

        def calls(self: Any, *args: Any) -> Any:
            is_it = gang.rank == doomed and "step-000004" in str(self if kind is Path else self.path)
            result = call(self, *args) if done or not is_it else None
            if is_it:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(kind, called, calls)
        with gang.passing():
            perform("sft", stopping_often(trees), tmp_path / "run 2")

    found = in_gang(2, tmp_path / "gang", killed)
    assert found[doomed] is None
    assert isinstance(found[1 - doomed], PeerError), found
    assert "one is gone" in str(found[1 - doomed])
    sizes = [4, 2] if kind is Path and not done else [2]
    if 4 in sizes:
        shutil.copytree(tmp_path / "run 2", tmp_path / "run 4")
    for size in sizes:
        run = tmp_path / f"run {size}"

        def resumed(_: Gang, run: Path = run) -> int:
            log, seen = Run.log, list[int]()

            def logs(self: Run, step: int, metrics: Mapping[str, float]) -> None:
                seen.append(step)
                log(self, step, metrics)

            Run.log = logs  # type: ignore[method-assign]
            perform("sft", stopping_often(trees), run, resume=True)
            return seen[0]

        assert in_gang(size, tmp_path / f"gang of {size}", resumed) == [begins] * size
        assert not [*run.glob("checkpoints/.*")]
        weights = load_file(run / "model" / "model.safetensors")
        for key, weight in unharmed.items():
            assert size == 4 or torch.equal(weights[key], weight)
            torch.testing.assert_close(weights[key], weight, rtol=1e-4, atol=5e-5)


@pytest.fixture(scope="module")
def unharmed(trees: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What two processes come to of which none is killed."""
    root = tmp_path_factory.mktemp("unharmed")
    found = in_gang(2, root / "gang", lambda _: perform("sft", stopping_often(trees), root / "run"))
    assert found == [None, None]
    return load_file(root / "run" / "model" / "model.safetensors")


def stopping_often(trees: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Five steps of sharded SFT, with a checkpoint after every second."""
    sft = trees["sft"]
    return sft | {"data": sft["data"] | {"limit": 54}, "checkpoint_every": 2} | SHARDED


def check(
    name: str, tree: Mapping[str, Any], more: Mapping[str, Any], one: Path, directory: Path, *, size: int
) -> None:
    """Run it in so many processes and compare."""
    several = directory / "run"

    def work(gang: Gang) -> float:
        learned: list[float] = []
        begin = Optimizer.__init__

        def begins(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **kwargs)
            here, all_of_it = (sum(p.numel() for p in each.values()) for each in (self.own, self.parameters))
            learned.append(here / all_of_it)

        Optimizer.__init__ = begins  # type: ignore[method-assign]
        perform(name, {**tree, **more}, several)
        return max(learned)

    shares = in_gang(size, directory / "gang", work)
    assert shares == pytest.approx([1 / size if "cluster" in more else 1.0] * size, abs=0.05)
    rows, others = metrics(one), metrics(several)
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        for key, value in row.items():
            noise = key == "sampler/gap_max" or (number == 0 and key in BY_A_SIGN)
            if not key.startswith("time/") and not noise:
                assert other[key] == pytest.approx(value, rel=2e-3, abs=2e-4), key
    (weights,), (same,) = ([*each.glob("model/*model.safetensors")] for each in (one, several))
    mine, theirs = load_file(weights), load_file(same)
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=5e-5)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in several.iterdir())
    assert not [*several.glob("checkpoints/*")]


BY_A_SIGN = {"dpo/accuracy", "kto/accuracy"}
"""Before anything is learned these are of numbers that are zero but for rounding."""


def texts_of(path: Path) -> list[list[str]]:
    """What the responses to each prompt say."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [[response["text"] for response in line["responses"]] for line in lines]


def metrics(directory: Path) -> list[dict[str, float]]:
    """A row for each step."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
