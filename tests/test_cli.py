"""The command line: help that teaches, errors of one line, exit statuses."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from palate import cli, recipe
from palate.commands import STAGES
from palate.errors import DiskFullError, PalateError

COMMANDS = (
    "demo",
    "cluster",
    "engine",
    "init",
    "studio",
    "worker",
    "backup",
    "restore",
    "data",
    "data abstention",
    "data check",
    "data import",
    "data filter",
    "data mine",
    "data export",
    "data get",
    "pretrain",
    "sft",
    "sample",
    "judge",
    "revise",
    "reward",
    "ppo",
    "reinforce",
    "dpo",
    "kto",
    "online-dpo",
    "raft",
    "distill",
    "best-of-n",
    "eval",
    "rounds",
    "compare",
    "repeat",
    "frontier",
    "overoptimize",
    "coverage",
    "labelers",
    "choose",
    "agent",
    "runs",
)


def palate(*argv: str) -> int:
    """Exit status of a command run in this process."""
    try:
        return cli.main(argv)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text('[data]\npath = "demonstrations.jsonl"\n')
    return path


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[object]]:
    """Put a function in the place of a stage's ``train``; what it was called with is kept."""

    def put(train: Callable[..., None] = lambda recipe, run: None) -> list[object]:
        calls: list[object] = []
        module = types.ModuleType("palate.stages.sft")
        module.train = lambda recipe, run: (calls.extend((recipe, run)), train(recipe, run))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "palate.stages.sft", module)
        return calls

    return put  # type: ignore[return-value]


def test_commands_are_pinned() -> None:
    assert set(cli.build_parsers()) == {"", *COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_shows_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert palate(*name.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: palate {name} ")
    assert f"  palate {name} " in shown + " " or f"  palate {name}\n" in shown + "\n" or name == "data"


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert palate() == 0
    assert "palate demo" in capsys.readouterr().out
    assert palate("data") == 0
    assert "usage: palate data" in capsys.readouterr().out


def test_every_stage_has_its_recipe() -> None:
    for each in STAGES:
        kind = getattr(recipe, each.recipe)
        assert kind.model_fields["stage"].default == (
            "win_rate" if each.name == "eval" else each.name.replace("-", "_")
        )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pppo"], "palate: no command 'pppo'; did you mean 'ppo'? (see `palate --help`)"),
        (["xyzzy"], "palate: no command 'xyzzy' (see `palate --help`)"),
        (["data", "chek"], "palate: no command 'chek'; did you mean 'check'? (see `palate data --help`)"),
        (["ppo"], "palate: the following arguments are required: RECIPE.toml (see `palate ppo --help`)"),
        (
            ["sft", "a.toml", "--rezume"],
            "palate: no option '--rezume'; did you mean '--resume'? (see `palate sft --help`)",
        ),
        (["sft", "a.toml"], "palate: a.toml: no such recipe; `recipes/` has one for every method"),
        (["data", "check", "a", "--field", "x"], "palate: argument --field: 'x' is not NAME=COLUMN, for example"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert palate(*argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)
    assert shown.err.count("\n") == 1


def test_recipe_overrides_and_run_reach_the_stage(recipe_file: Path, stage: Callable[..., list[object]]) -> None:
    calls = stage()
    assert palate("sft", str(recipe_file), "--set", "seed=3", "optimizer.learning_rate=1e-3", "--set", "epochs=2") == 0
    given, run = calls
    assert (given.seed, given.optimizer.learning_rate, given.epochs) == (3, 1e-3, 2)  # type: ignore[attr-defined]
    assert run.directory == Path("runs/small")  # type: ignore[attr-defined]
    assert not run.resumed  # type: ignore[attr-defined]
    assert "seed = 3" in Path("runs/small/recipe.toml").read_text()


def test_resume_and_out(recipe_file: Path, stage: Callable[..., list[object]]) -> None:
    calls = stage()
    assert palate("sft", str(recipe_file), "--out", "elsewhere") == 0
    assert palate("sft", str(recipe_file), "--out", "elsewhere", "--resume") == 0
    assert calls[3].resumed  # type: ignore[attr-defined]
    assert palate("sft", str(recipe_file), "--resume") == 2


def test_finished_run_is_left_alone(
    recipe_file: Path, stage: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = stage(lambda recipe, run: run.finish({}))
    assert palate("sft", str(recipe_file)) == 0
    assert palate("sft", str(recipe_file), "--resume") == 0
    assert len(calls) == 2
    assert "nothing is left to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PalateError("do this instead"), 2, "palate: do this instead\n"),
        (DiskFullError("the disk is full"), 2, "palate: the disk is full\n"),
        (OSError(28, "No space left on device", "big.bin"), 2, "palate: the disk is full: big.bin\n"),
        (
            KeyboardInterrupt("stopped at step 3 of 9; go on with --resume"),
            130,
            "palate: stopped at step 3 of 9; go on ",
        ),
        (KeyboardInterrupt(), 130, "palate: interrupted; go on with --resume\n"),
    ],
)
def test_how_a_stage_ends(
    recipe_file: Path,
    stage: Callable[..., list[object]],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def train(recipe: object, run: object) -> None:
        raise error

    stage(train)
    assert palate("sft", str(recipe_file)) == status
    assert capsys.readouterr().err.startswith(message)


def test_our_own_mistakes_keep_their_traceback(recipe_file: Path, stage: Callable[..., list[object]]) -> None:
    def train(recipe: object, run: object) -> None:
        raise ZeroDivisionError

    stage(train)
    with pytest.raises(ZeroDivisionError):
        palate("sft", str(recipe_file))


def test_tensorboard_that_is_not_installed(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert palate("sft", str(recipe_file), "--tensorboard") == 2
    assert "run `pip install 'palate[tensorboard]'`" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_data_check_and_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ours, theirs = tmp_path / "pairs.jsonl", tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    rows = [{"prompt": "p", "chosen": "yes", "rejected": "no"}, {"prompt": "q", "chosen": "a b", "rejected": "c"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert palate("data", "check", str(source)) == 0
    assert "2 rankings" in capsys.readouterr().out
    assert palate("data", "import", str(source), "--out", str(ours)) == 0
    assert palate("data", "export", str(ours), "--format", "trl-explicit", "--out", str(theirs)) == 0
    assert [json.loads(line) for line in theirs.read_text().splitlines()] == rows


def test_data_with_bad_rows_has_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"prompt": "p", "chosen": "yes", "rejected": "no"}\n{"prompt": \n')
    assert palate("data", "check", str(source)) == 2
    assert palate("data", "import", str(source), "--out", str(tmp_path / "a.jsonl"), "--skip-bad") == 0


def test_runs(
    tmp_path: Path, recipe_file: Path, stage: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert palate("runs") == 0
    assert capsys.readouterr().out == "no runs in runs\n"
    stage(lambda recipe, run: run.finish({}))
    palate("sft", str(recipe_file))
    assert palate("runs") == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split()[:3] == ["runs/small", "sft", "finished"]


def real(*argv: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "palate", *argv], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_real_command_without_traceback() -> None:
    done = real("sft", "nowhere.toml")
    assert done.returncode == 2
    assert done.stderr == "palate: nowhere.toml: no such recipe; `recipes/` has one for every method\n"


def test_help_does_not_import_torch() -> None:
    code = "import sys; from palate import cli; cli.main([]); print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_reader_that_has_seen_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = real("runs", "nowhere", stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_one_of_several_leaves_the_interpreter_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only after what was to be done at its end, and what was said; one alone ends as every program does."""
    done: list[object] = []
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(flush=lambda: done.append("flushed")))
    monkeypatch.setattr(os, "_exit", done.append)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: done.append("at exit"))
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit) as ended:
        cli.end(3)
    assert (ended.value.code, done) == (3, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):  # as `_exit` has returned here
        cli.end(3)
    assert done == ["at exit", "flushed", 3]
