"""A comparison's own decisions, with nothing trained: what is run and measured when, what is drawn, what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.experiments.conftest import Write

from palate.errors import MachineError
from palate.experiments import compare
from palate.experiments.compare import Comparison
from palate.experiments.measuring import Point, Pool
from palate.experiments.methods import read_comparison
from palate.experiments.tracks import Entry
from palate.recipe import CompareRecipe
from palate.run.directory import Run

NAMES = ("ppo", "reinforce", "dpo")
SECONDS = 60.0


@pytest.fixture
def comparison(settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path) -> Comparison:
    """Three methods over two seeds."""
    return made([write(name, settings[name]) for name in NAMES], write("judged", evaluation), tmp_path / "out")


def made(files: Sequence[str], judged: str, out: Path, *settings: str, **more: Any) -> Comparison:
    allowed = ["rewards", "model", "prompts"]
    methods, evaluation = read_comparison(files, Path(judged), settings, allow_different=allowed)
    return Comparison(methods, evaluation, out, **{"seeds": 2, **more})


def test_every_seed_is_run_measured_and_reported_before_the_next(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails is not measured; how long the rest will take is told by how long runs took."""
    happened: list[tuple[Any, ...]] = []
    clock = [0.0]

    def trains(self: Comparison, method: Any, seed: int, whole: Run) -> bool:
        happened.append(("train", method.name, seed))
        clock[0] += SECONDS
        return (method.name, seed) != ("dpo", 0)

    def reports(out: Path, methods: Any, entries: Any, evaluation: Any, **more: Any) -> None:
        happened.append(("report", len(entries), more["at_kl"], more["notes"]))
        more["extra"]("the page")

    def known(self: Comparison, seeds: int) -> list[Entry]:
        return [Entry(name=f"{seeds} seeds", tracks=[None])]  # type: ignore[list-item]

    def draws(self: Comparison, seed: int, run: Run) -> None:
        happened.append(("pool", seed))
        run.note(f"a word about seed {seed}")

    monkeypatch.setattr(compare.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Comparison, "check", lambda self: happened.append(("check",)))
    monkeypatch.setattr(Comparison, "_train", trains)
    monkeypatch.setattr(
        Comparison, "_measure", lambda self, method, seed, run: happened.append(("measure", method.name, seed))
    )
    monkeypatch.setattr(Comparison, "_draw_pool", draws)
    monkeypatch.setattr(Comparison, "entries", known)
    monkeypatch.setattr(compare, "write_report", reports)
    comparison.at_kl = 2.5
    found = comparison.run(lambda entries, page: happened.append(("extra", entries[0].name, page)))
    assert [entry.name for entry in found] == ["2 seeds"]
    expected: list[tuple[Any, ...]] = [("check",)]
    for seed in (0, 1):
        for name in NAMES:
            expected += [("train", name, seed), ("measure", name, seed)]
        notes = tuple(f"a word about seed {before}" for before in range(seed + 1))
        expected += [("pool", seed), ("report", 1, 2.5, notes), ("extra", f"{seed + 1} seeds", "the page")]
    expected.remove(("measure", "dpo", 0))
    assert happened == expected
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("==")]
    assert said == [
        "== ppo, seed 0: run 1 of 6",
        "== reinforce, seed 0: run 2 of 6, about 5:00 left",
        "== dpo, seed 0: run 3 of 6, about 4:00 left",
        "== ppo, seed 1: run 4 of 6, about 3:00 left",
        "== reinforce, seed 1: run 5 of 6, about 2:00 left",
        "== dpo, seed 1: run 6 of 6, about 1:00 left",
    ]
    report = json.loads((comparison.out / "report.json").read_text(encoding="utf-8"))
    assert report["seeds"] == 2


def test_what_was_there_already_tells_nothing_of_the_time_that_is_left(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(comparison.out, comparison.evaluation)
    comparison._took = {("ppo", 0): 0.01, ("reinforce", 0): 90.0}
    comparison._say_where(run, comparison.trained[2], 0)
    assert "run 3 of 6, about 6:00 left" in capsys.readouterr().err


def test_mistakes_are_looked_for_in_every_run_that_has_not_begun(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def tells(train: Any, recipe: Any, directory: Path) -> Any:
        asked.append((recipe.stage, recipe.seed))
        assert directory.is_dir()
        assert train.__module__.endswith(recipe.stage)
        return SimpleNamespace(short="12 GB are missing" if recipe.stage == "dpo" else "")

    monkeypatch.setattr(compare, "tell", tells)
    begun = comparison.out / "reinforce" / "seed-0"
    begun.mkdir(parents=True)
    (begun / "metrics.jsonl").touch()
    comparison.methods = comparison.methods[:2]
    comparison.check()
    assert asked == [("ppo", 0), ("ppo", 1), ("reinforce", 1)]
    comparison.methods = comparison.trained
    with pytest.raises(MachineError, match=r"^dpo: 12 GB are missing$"):
        comparison.check()


def test_best_of_n_is_no_run_to_look_into(
    settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = {key: settings["ppo"][key] for key in ("model", "prompts", "rewards")} | {"n": 2}
    files = [write("best_of_n", chooser), write("ppo", settings["ppo"])]
    comparison = made(files, write("judged", evaluation), tmp_path / "out", seeds=1)
    asked: list[str] = []
    monkeypatch.setattr(
        compare, "tell", lambda train, recipe, directory: asked.append(recipe.stage) or SimpleNamespace(short="")
    )
    comparison.check()
    assert asked == ["ppo"]
    assert [method.name for method in comparison.trained] == ["ppo"]


@pytest.mark.parametrize(("best_of", "pool"), [(4, " and 4 for best of n"), (0, "")])
def test_an_estimate_adds_up_all_seeds(
    best_of: int,
    pool: str,
    settings: dict[str, Any],
    evaluation: dict[str, Any],
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [write(name, settings[name]) for name in ("ppo", "dpo")]
    comparison = made(files, write("judged", evaluation, best_of=best_of), tmp_path / "out")
    seconds = {"ppo": 100.0, "dpo": None}
    monkeypatch.setattr(
        compare,
        "foresee",
        lambda train, recipe: SimpleNamespace(
            lines=["memory: much", f"time of seed {recipe.seed}"], seconds=seconds[recipe.stage]
        ),
    )
    assert comparison.estimate().splitlines() == [
        "ppo: time of seed 0",
        "dpo: time of seed 0",
        # two points of each method and one start, two responses each
        f"training, 2 seeds: 3:20; a seed is measured on 10 responses to each held-out prompt{pool}",
    ]


REWARD, OTHER = {"length": 3.0}, {"length": 9.0}


@pytest.mark.parametrize(
    ("rewards", "chooser", "best_of", "expected"),
    [
        ([REWARD, REWARD], None, 4, {"best of n": 4}),
        ([REWARD, OTHER], None, 4, {"best of n by ppo's reward": 4, "best of n by reinforce's reward": 4}),
        ([REWARD, REWARD], None, 0, {}),
        ([REWARD, REWARD], REWARD, 4, {"best_of_n": 2}),
        ([REWARD, REWARD], OTHER, 4, {"best_of_n": 2, "best of n by ppo's reward": 4}),
        ([REWARD, REWARD], OTHER, 0, {"best_of_n": 2}),
    ],
)
def test_best_of_n_by_every_reward_that_somebody_learns_from(
    rewards: list[Any],
    chooser: Any,
    best_of: int,
    expected: dict[str, int],
    settings: dict[str, Any],
    evaluation: dict[str, Any],
    write: Write,
    tmp_path: Path,
) -> None:
    files = [
        write(name, settings[name], rewards=[each]) for name, each in zip(("ppo", "reinforce"), rewards, strict=True)
    ]
    if chooser is not None:
        files.append(
            write("best_of_n", {"model": "tiny", "prompts": settings["ppo"]["prompts"]}, rewards=[chooser], n=2)
        )
    comparison = made(files, write("judged", evaluation, best_of=best_of), tmp_path / "out")
    assert {name: most for name, (_, most) in comparison._choosers().items()} == expected


class Drawn:
    """Draws nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, dict[str, Any], int]] = []

    def pool(self, seed: int, rewards: dict[str, Any], count: int) -> Pool:
        self.asked.append((seed, rewards, count))
        one = np.zeros((2, count))
        return Pool(judge=one, won=one, words=one, logprob=one, rewards=dict.fromkeys(rewards, one))


def test_a_pool_is_drawn_anew_only_if_it_is_too_small_or_lacks_a_reward(
    settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards have the name that they have in seed 0, and are those of the seed."""
    by_seed = {"model": "runs/{seed}/reward"}
    ppo, dpo = write("ppo", settings["ppo"], rewards=[by_seed]), write("dpo", settings["dpo"])
    other, judged = write("reinforce", settings["reinforce"], rewards=[OTHER]), write("judged", evaluation)
    drawn, out = Drawn(), tmp_path / "out"
    monkeypatch.setattr(Comparison, "_measuring", lambda self, seed, run: drawn)
    run: Any = None
    first, second = json.dumps([{"model": "runs/0/reward"}]), json.dumps([OTHER])

    made([dpo], judged, out)._draw_pool(1, run)
    assert not drawn.asked, "nobody chooses"
    made([ppo, dpo], judged, out)._draw_pool(1, run)
    ((seed, rewards, count),) = drawn.asked
    assert (seed, rewards.keys(), count) == (1, {first}, 4)
    assert [term.model for term in rewards[first]] == ["runs/1/reward"]
    for _ in range(2):
        made([ppo, dpo], judged, out)._draw_pool(1, run)
    made([ppo], judged, out, "eval:best_of=3")._draw_pool(1, run)
    assert len(drawn.asked) == 1, "it is there"
    made([ppo], judged, out)._draw_pool(0, run)
    assert [asked[0] for asked in drawn.asked] == [1, 0], "of another seed it is not"
    made([ppo, other], judged, out)._draw_pool(1, run)
    assert drawn.asked[2][1].keys() == {first, second}
    made([ppo, other], judged, out, "eval:best_of=5")._draw_pool(1, run)
    assert drawn.asked[3][2] == 5
    assert Pool.read(out / "best-of-n" / "seed-1.json").judge.shape == (2, 5)


def test_runs_that_begin_alike_share_their_beginning(
    settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "ppo": {},
        "reinforce": {"kl_coef": 0.9},
        "dpo": {},  # has no reward and is given the others'
        "elsewhere=ppo_elsewhere": {"model": "runs/other"},
        "plain=ppo_plain": {"chat_template": "plain"},
    }
    files = []
    for name, more in changes.items():
        label, _, file = name.rpartition("=")
        path = write(file, settings[file.partition("_")[0]], **more)
        files.append(f"{label}={path}" if label else path)
    comparison = made(files, write("judged", evaluation, baseline="runs/{seed}/sft"), tmp_path / "out")
    start = {method.name: comparison._start_file(method, 0) for method in comparison.methods}
    assert start["ppo"] == start["reinforce"] == start["dpo"]
    assert len(set(start.values())) == 3
    assert comparison._start_file(comparison.methods[0], 1) != start["ppo"], "the baseline is another one"
    files[1] = write("reinforce", settings["reinforce"], rewards=[OTHER])
    comparison = made(files, write("judged", evaluation), tmp_path / "out")
    ppo, reinforce, dpo = comparison.methods[:3]
    assert comparison._reward_terms(reinforce, 0) == reinforce.recipe(0).rewards
    assert comparison._reward_terms(dpo, 0) is None, "of two it is not known which"
    assert len({comparison._start_file(method, 0) for method in (ppo, reinforce, dpo)}) == 3


def test_the_evaluation_is_that_of_the_seed(comparison: Comparison) -> None:
    comparison.evaluation = comparison.evaluation.model_copy(update={"baseline": "runs/{seed}/sft"})
    found = comparison._evaluation(3)
    assert isinstance(found, CompareRecipe)
    assert found.baseline == "runs/3/sft"
    assert found.model_dump(exclude={"baseline"}) == comparison.evaluation.model_dump(exclude={"baseline"})


def test_every_policy_is_measured_once_in_the_precision_of_the_evaluation(
    settings: dict[str, Any], evaluation: dict[str, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it began, at its snapshots and at its end; a snapshot that was measured is deleted."""
    files = [write("reinforce", settings["reinforce"], chat_template="plain")]
    comparison = made(files, write("judged", evaluation, precision="bf16"), tmp_path / "out", seeds=1)
    (method,), directory = comparison.methods, comparison.out / "reinforce" / "seed-0"
    (directory / "snapshots").mkdir(parents=True)
    snapshot = directory / "snapshots" / "step-000002.safetensors"
    snapshot.touch()
    (directory / "costs.jsonl").write_text('{"tokens": 1.0, "seconds": 1.0}\n' * 4, encoding="utf-8")
    asked: list[tuple[Any, ...]] = []

    def loads(name: str, *, chat_template: str = "", precision: str = "auto") -> Any:
        return name, chat_template, precision

    def measures(policy: Any, rewards: Any) -> Point:
        asked.append(policy)
        assert rewards == method.recipe(0).rewards
        return Point(kl=(1.0,), judge=(1.0,), won=(0.5,), words=(1.0,), truncated=(0.0,))

    measuring: list[int] = []

    def begins(self: Comparison, seed: int, run: Any) -> Any:
        measuring.append(seed)
        return SimpleNamespace(point=measures)

    monkeypatch.setattr(compare, "load_language_model", loads)
    monkeypatch.setattr(compare, "load_snapshot", lambda path, recipe: (path.name, "", recipe.precision))
    monkeypatch.setattr(Comparison, "_measuring", begins)
    run: Any = None
    comparison._measure(method, 0, run)
    began = ("tiny", "plain", "bf16")
    assert asked == [began, (snapshot.name, "", "bf16"), (str(directory), "", "bf16")]
    assert sorted(path.name for path in (directory / "points").iterdir()) == ["step-000002.json", "step-000004.json"]
    assert not snapshot.exists()
    assert sorted(comparison._points(method, 0)) == [0, 2, 4]

    comparison._measure(method, 0, run)
    assert (len(asked), measuring) == (3, [0]), "all of it is known"
    comparison._start_file(method, 0).unlink()
    comparison._measure(method, 0, run)
    assert asked[3:] == [began]
    (directory / "points" / "step-000004.json").unlink()
    comparison._measure(method, 0, run)
    assert asked[4:] == [(str(directory), "", "bf16")]
    assert measuring == [0, 0, 0]
