"""Runs that are killed, stopped, damaged or out of disk, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from palate import disk
from palate.errors import CheckpointError, DiskFullError, RunError, TrainingError
from palate.recipe import Data, SFTRecipe
from palate.run import checkpoints
from palate.run.directory import Run
from palate.run.listing import list_runs
from palate.run.locking import is_running
from palate.run.trackers import showing

RECIPE = SFTRecipe(data=Data(path="demonstrations.jsonl"))


class Walk:
    """A training in small: every step changes a tensor, a float and a string, in a way that depends on all of them."""

    def __init__(self) -> None:
        self.weights, self.size, self.trail = torch.zeros(3, dtype=torch.float64), 0.1, ""

    def step(self, step: int) -> None:
        self.weights = torch.sin(self.weights + step + self.size)
        self.size = self.size * 1.1 + float(self.weights.sum())
        self.trail += str(step % 10)

    def state_dict(self) -> dict[str, Tensor | int | float | str]:
        return {"weights": self.weights, "size": self.size, "trail": self.trail}

    def load_state_dict(self, state: dict[str, Tensor | int | float | str]) -> None:
        self.weights, self.size, self.trail = state["weights"], state["size"], state["trail"]  # type: ignore[assignment]

    @property
    def snapshot(self) -> tuple[list[float], float, str]:
        return self.weights.tolist(), self.size, self.trail


def train(
    directory: Path,
    *,
    resume: bool = False,
    total: int = 10,
    every: int = 3,
    keep: int = 2,
    die: int = -1,
    signals: Mapping[int, Sequence[signal.Signals]] | None = None,
    walk: Walk | None = None,
) -> Walk:
    """A stage in small, with an accident in step ``die``, or with signals that arrive in a step."""
    walk = walk or Walk()
    run = Run.open(directory, RECIPE, resume=resume)
    for step in run.steps(total, every=every, keep=keep, state={"walk": walk}):
        if step == die:
            raise RuntimeError("accident")
        for number in (signals or {}).get(step, ()):
            os.kill(os.getpid(), number)
        walk.step(step)
        run.log(step, {"sft/loss": walk.size})
        run.samples(step, [{"prompt": "p", "response": walk.trail, "score": 1.0}])
    return walk


def interrupt(directory: Path, die: int) -> None:
    with pytest.raises(RuntimeError, match="accident"):
        train(directory, die=die)


def logged_steps(directory: Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (directory / name).read_text().splitlines()]


def checkpoint_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole() -> Walk:
    walk = Walk()
    for step in range(10):
        walk.step(step)
    return walk


@pytest.mark.parametrize("die", [0, 2, 3, 7, 9])
def test_resumed_run_ends_bit_for_bit_like_one_that_never_stopped(tmp_path: Path, whole: Walk, die: int) -> None:
    interrupt(tmp_path / "run", die)
    assert train(tmp_path / "run", resume=True).snapshot == whole.snapshot
    assert logged_steps(tmp_path / "run") == list(range(10))
    assert logged_steps(tmp_path / "run", "samples.jsonl") == list(range(10))


def test_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(tmp_path: Path, whole: Walk) -> None:
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from palate import disk
        from palate.run import checkpoints
        from test_run import train
        write_tensors = checkpoints._write_tensors
        def killed(path, tensors):
            result = write_tensors(path, tensors)
            if "step-000006" in str(path):
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        checkpoints._write_tensors = killed
        train(Path(sys.argv[1]))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert checkpoint_names(tmp_path / "run") == [".step-000006.tmp", "step-000003"]
    assert logged_steps(tmp_path / "run") == [0, 1, 2, 3, 4, 5]
    assert not is_running(tmp_path / "run")

    assert train(tmp_path / "run", resume=True).snapshot == whole.snapshot
    assert logged_steps(tmp_path / "run") == list(range(10))
    assert checkpoint_names(tmp_path / "run") == ["step-000009", "step-000010"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "state", "number"])
def test_damaged_checkpoint_is_noticed_and_skipped(
    tmp_path: Path, whole: Walk, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(tmp_path / "run", 7)
    newest = tmp_path / "run" / "checkpoints" / "step-000006"
    tensors, state = newest / "walk.safetensors", newest / "state.json"
    content = bytearray(tensors.read_bytes())
    if damage == "truncated":
        tensors.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "missing":
        tensors.unlink()
    elif damage == "state":
        state.write_text(state.read_text()[:-9])
    else:
        state.write_text(state.read_text().replace('\\"step\\": 6', '\\"step\\": 5'))
    assert train(tmp_path / "run", resume=True).snapshot == whole.snapshot
    shown = capsys.readouterr().err
    assert "step-000006 is damaged and skipped" in shown
    assert "going on at step 3" in shown
    assert logged_steps(tmp_path / "run") == list(range(10))


def test_a_damaged_newer_checkpoint_never_pushes_out_a_good_one(tmp_path: Path) -> None:
    interrupt(tmp_path / "run", 7)
    (tmp_path / "run/checkpoints/step-000006/state.json").write_text("torn")
    with pytest.raises(RuntimeError, match="accident"):
        train(tmp_path / "run", resume=True, every=1, keep=1, die=4)
    assert checkpoint_names(tmp_path / "run") == ["step-000004"]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    interrupt(tmp_path / "run", 4)
    (tmp_path / "run/checkpoints/step-000003/state.json").write_text("")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints can be read"):
        train(tmp_path / "run", resume=True)


def test_checkpoints_of_other_parts_do_not_fit(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 3, {"walk": Walk()}, seconds=1.0, keep=1)
    with pytest.raises(CheckpointError):
        checkpoints.load_newest(tmp_path, {"walk": 0, "value": 0}, print)


def test_checkpoint_holds_tied_and_strided_tensors(tmp_path: Path) -> None:
    class Tied(Walk):
        def state_dict(self) -> dict[str, Tensor | int | float | str]:
            base = torch.arange(6.0).view(2, 3)
            return {"a": base, "b": base, "column": base[:, 1], "count": 2}

    checkpoints.save(tmp_path, 1, {"tied": Tied()}, seconds=0.5, keep=1)
    found = checkpoints.load_newest(tmp_path, {"tied": 0}, print)
    assert found is not None
    assert (found.step, found.seconds) == (1, 0.5)
    state = found.states["tied"]
    assert state["count"] == 2
    assert torch.equal(state["a"], torch.arange(6.0).view(2, 3))  # type: ignore[arg-type]
    assert torch.equal(state["b"], state["a"])  # type: ignore[arg-type]
    assert torch.equal(state["column"], torch.tensor([1.0, 4.0]))  # type: ignore[arg-type]


def test_a_checkpoint_gets_its_name_after_everything_in_it_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(disk, "flush", lambda path: calls.append(path.name))
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append(f"rename to {to.name}"), rename(path, to)))
    checkpoints.save(tmp_path / "checkpoints", 1, {"walk": Walk()}, seconds=1.0, keep=1)
    assert set(calls[:2]) == {"walk.safetensors", "state.json"}
    assert calls[2:] == [".step-000001.tmp", "rename to step-000001", "checkpoints"]


def test_a_line_torn_by_the_kill_is_dropped(tmp_path: Path, whole: Walk) -> None:
    interrupt(tmp_path / "run", 5)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "sft/lo')
    assert train(tmp_path / "run", resume=True).snapshot == whole.snapshot
    assert logged_steps(tmp_path / "run") == list(range(10))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint(tmp_path: Path, whole: Walk, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    walk = Walk()
    with pytest.raises(KeyboardInterrupt, match=r"^stopped at step 5 of 10$"):
        train(tmp_path / "run", walk=walk, every=100, signals={4: [number]})
    assert walk.trail == "01234"
    assert signal.getsignal(number) == before
    assert checkpoint_names(tmp_path / "run") == ["step-000005"]
    assert train(tmp_path / "run", resume=True).snapshot == whole.snapshot


def test_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    walk = Walk()
    with pytest.raises(KeyboardInterrupt, match="at once"):
        train(tmp_path / "run", walk=walk, signals={4: [signal.SIGINT, signal.SIGTERM]})
    assert walk.trail == "0123"


def test_full_disk_is_one_line_about_the_disk(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", RECIPE)
    (tmp_path / "run/metrics.jsonl").symlink_to("/dev/full")
    steps = run.steps(2, every=1, keep=1, state={"walk": Walk()})
    with pytest.raises(DiskFullError, match=r"^the disk is full, .*metrics\.jsonl could not be written; .*--resume$"):
        run.log(next(steps), {"sft/loss": 1.0})
    steps.close()


def test_disk_that_fills_up_while_tensors_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    interrupt(tmp_path / "run", 5)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(DiskFullError, match="finished checkpoints are kept"):
        train(tmp_path / "run", resume=True)
    assert checkpoint_names(tmp_path / "run") == ["step-000003"]


def test_old_checkpoints_are_deleted_and_the_last_step_has_one(tmp_path: Path) -> None:
    train(tmp_path / "run", total=8, every=3, keep=2)
    assert checkpoint_names(tmp_path / "run") == ["step-000006", "step-000008"]


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    interrupt(tmp_path / "run", 4)
    with pytest.raises(RunError, match="already holds a run: go on with it by --resume, or name another --out"):
        Run.open(tmp_path / "run", RECIPE)


def test_a_run_that_never_did_a_step_may_be_started_again(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", RECIPE).add_inputs({"model": "0"})
    Run.open(tmp_path / "run", RECIPE.model_copy(update={"seed": 1})).add_inputs({"model": "1"})
    assert "seed = 1" in (tmp_path / "run/recipe.toml").read_text()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to go on with"):
        Run.open(tmp_path / "run", RECIPE, resume=True)
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="Not a directory"):
        Run.open(tmp_path / "run", RECIPE)


def test_resume_with_a_changed_recipe_names_the_keys(tmp_path: Path) -> None:
    interrupt(tmp_path / "run", 4)
    optimizer = RECIPE.optimizer.model_copy(update={"learning_rate": 1e-3})
    changed = RECIPE.model_copy(update={"epochs": 2, "optimizer": optimizer})
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path / "run", changed, resume=True)
    assert "a resume with a changed recipe" in str(caught.value)
    assert "epochs: 1 is now 2" in str(caught.value)
    assert "optimizer.learning_rate: 2e-05 is now 0.001" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_resume_with_changed_data_is_refused(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", RECIPE).add_inputs({"data": {"a.jsonl": "1", "b.jsonl": "2"}, "model": "3"})
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
    run = Run.open(tmp_path / "run", RECIPE, resume=True)
    run.add_inputs({"data": {"a.jsonl": "1", "b.jsonl": "2"}})
    with pytest.raises(RunError, match=r"b\.jsonl has changed since this run began"):
        run.add_inputs({"data": {"b.jsonl": "4"}})


def test_before_the_first_step_everything_may_change(tmp_path: Path) -> None:
    """What stopped it there, a row perhaps, has been mended: there is nothing yet that another file would belie."""
    Run.open(tmp_path / "run", RECIPE).add_inputs({"data": {"a.jsonl": "1"}, "model": "3"})
    Run.open(tmp_path / "run", RECIPE, resume=True).add_inputs({"data": {"a.jsonl": "2"}, "model": "4"})
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert lineage["inputs"] == {"data": {"a.jsonl": "2"}, "model": "4"}
    assert "changed_data" not in lineage


def test_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = Run.open(tmp_path / "run", RECIPE)
    for step in run.steps(2, every=1, keep=1, state={"walk": Walk()}):
        run.log(step, {"sft/loss": 0.5 - step / 10})
    run.note("3 rows were dropped")
    (tmp_path / "run/report.json").write_text('{"title": "written before", "steps": -1}')
    run.finish({"perplexity": 3.5, "seconds": 12})
    assert run.finished
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["title"] == "written before"
    assert report["perplexity"] == 3.5
    assert report["seconds"] == 12
    assert report["steps"] == 2
    assert report["metrics"] == {"sft/loss": 0.4}
    assert report["notes"] == ["3 rows were dropped"]
    assert checkpoint_names(tmp_path / "run") == []
    assert signal.getsignal(signal.SIGINT) is before

    again = Run.open(tmp_path / "run", RECIPE, resume=True)
    assert again.finished
    assert "this run finished at" in capsys.readouterr().err
    with pytest.raises(RunError, match="already holds a run"):
        Run.open(tmp_path / "run", RECIPE)


def test_killed_between_the_last_step_and_the_end(tmp_path: Path, whole: Walk) -> None:
    train(tmp_path / "run")
    walk = train(tmp_path / "run", resume=True)
    assert walk.snapshot == whole.snapshot
    assert logged_steps(tmp_path / "run") == list(range(10))


def test_seconds_add_up_over_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("palate.run.directory.time.monotonic", lambda: clock[0])
    for resume, expected in ((False, 3.0), (True, 6.0)):
        run = Run.open(tmp_path / "run", RECIPE, resume=resume)
        steps = run.steps(20, every=1, keep=1, state={"walk": Walk()})
        for _ in range(3):
            next(steps)
            clock[0] += 1.0
        next(steps)
        assert run.seconds == expected
        clock[0] += 50.0  # lost: the step is not finished
        steps.close()


def test_lineage_names_everything_that_went_in(tmp_path: Path) -> None:
    parent = Run.open(tmp_path / "sft", RECIPE)
    parent.finish({})
    recipe = SFTRecipe(data=Data(path="a.jsonl, b.jsonl"), model=str(tmp_path / "sft" / "model"))
    Run.open(tmp_path / "run", recipe).add_inputs({"data": {"a.jsonl": "abc"}, "model": "def"})
    lineage = json.loads((tmp_path / "run/lineage.json").read_text())
    assert lineage["stage"] == "sft"
    assert lineage["inputs"] == {"data": {"a.jsonl": "abc"}, "model": "def"}
    assert [parent["path"] for parent in lineage["parents"]] == [str(tmp_path / "sft")]
    assert lineage["versions"]["torch"] == torch.__version__
    assert lineage["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert lineage["ended"] is None
    assert len(lineage["recipe"]) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_metric_ends_the_run(tmp_path: Path, value: float) -> None:
    run = Run.open(tmp_path / "run", RECIPE)
    steps = run.steps(2, every=1, keep=1, state={"walk": Walk()})
    with pytest.raises(TrainingError, match=rf"^step 0: sft/loss is {value}; "):
        run.log(next(steps), {"sft/perplexity": 1.0, "sft/loss": value})
    steps.close()


def test_metric_that_nobody_explained_is_refused(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", RECIPE)
    with pytest.raises(AssertionError, match=r"explain policy/los in palate/run/metrics\.py"):
        run.log(0, {"policy/los": 1.0})
    run.log(0, {"objective/score": 1.0})


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    program = """if True:
        import sys
        from palate.recipe import Data, SFTRecipe
        from palate.run.directory import Run
        run = Run.open(sys.argv[1], SFTRecipe(data=Data(path="demonstrations.jsonl")))
        print("open", flush=True)
        sys.stdin.read()
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], env=environment, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == b"open\n"
        assert [run.state for run in list_runs(tmp_path)] == ["running"]
        with pytest.raises(RunError, match="another process is working on this run"):
            Run.open(tmp_path / "run", RECIPE, resume=True)
        other.stdin.close()
    Run.open(tmp_path / "run", RECIPE, resume=True)


def test_list_of_runs(tmp_path: Path) -> None:
    interrupt(tmp_path / "stopped", 7)
    finished = Run.open(tmp_path / "group" / "finished", RECIPE)
    finished.finish({})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/lineage.json").write_text("{")
    runs = {run.path.name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in runs.items()} == {
        "stopped": "stopped",
        "finished": "finished",
        "broken": "unreadable",
    }
    assert (runs["stopped"].step, runs["stopped"].total) == (7, 10)
    assert list(runs["stopped"].metrics) == ["sft/loss"]
    assert runs["stopped"].age >= 0


def test_plain_lines_where_nobody_is_looking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", total=3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 1/3  0:00 left  sft/loss ")
    assert lines[-1].startswith("step 3/3  ")


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def log(self, step: int, metrics: object) -> None:
        self.calls.append(("log", step, metrics))

    def text(self, step: int, rows: object) -> None:
        self.calls.append(("text", step, rows))

    def close(self) -> None:
        self.calls.append(("close",))


def test_trackers_are_told_everything(tmp_path: Path) -> None:
    recorder = Recorder()
    run = Run.open(tmp_path / "run", RECIPE, trackers=[recorder])
    for step in run.steps(1, every=1, keep=1, state={"walk": Walk()}):
        run.log(step, {"sft/loss": 1.0})
        run.samples(step, [{"score": 2}])
    assert recorder.calls == [("log", 0, {"sft/loss": 1.0}), ("text", 0, [{"score": 2}]), ("close",)]


def test_long_work_without_steps_is_shown_and_short_work_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with showing("frozen layers") as show:
        show(2, 2)
    assert capsys.readouterr().err == ""
    with showing("frozen layers", quiet_seconds=0) as show:
        show(0, 2)
        show(2, 2)
    assert capsys.readouterr().err == "frozen layers 2/2  0:00 left\n"
