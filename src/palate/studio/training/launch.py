"""What the process of a job runs: one command of `palate`, and a note of how it ended.

    python -P -m palate.studio.training.launch RUN_DIRECTORY sft RECIPE.toml --out RUN_DIRECTORY

On a cluster the command is ``cluster --stage sft RECIPE.toml``, and the process is that of a job of Ray's.

``process.json`` in the run directory says which process it is from the beginning, and its exit status in the end. So
the app knows both after it was itself restarted; a note without a status, and no such process, means that it was
killed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from palate import disk
from palate.errors import PalateError
from palate.studio.training import processes
from palate.studio.training.processes import Process

FILE, LOG, STOP, SENT = "process.json", "log.txt", "stop", "submission"
"""Beside the run's own files: the note, what was printed, that it shall stop, under which name it was sent away."""
LOOK_EVERY = 0.5
AT_ONCE = "at once"
"""What the file says when it was asked for twice."""


@dataclass(frozen=True, slots=True)
class Note:
    """Which process it is, and its exit status if it has come to its end."""

    process: Process
    status: int | None


def main(argv: Sequence[str]) -> int:
    """Run the command, with the note before and after."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an app in a shell's background ignores what cancels jobs
    directory, command = Path(argv[0]), argv[1:]
    if command[0] == "cluster":
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # by which Ray stops it, once
        threading.Thread(target=_watch, args=(directory / STOP,), daemon=True).start()
    process = processes.find(os.getpid())
    assert process is not None, "a process finds itself"
    write_note(directory, Note(process, None))
    status = 1  # of an error that nobody foresaw; its traceback is in the log
    try:
        status = run(command)
    finally:
        if command[0] == "cluster":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has come: there is nothing left to stop
        write_note(directory, Note(process, status))
    return status


def _watch(stop: Path) -> None:
    """Ray asks a job to stop only once; whoever asks twice wants it to stop at once, and says so on the disk."""
    while True:
        time.sleep(LOOK_EVERY)
        with suppress(OSError):
            if stop.read_text() == AT_ONCE:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def line_for_cluster(workspace: Path, directory: Path, name: str, command: Sequence[str]) -> str:
    """What a shell on a cluster's head runs, once it has seen that it has the same disk as we.

    Args:
        directory: of the run, where a file says the job's name.
        command: its process's here.
    """
    here, mark, log = (shlex.quote(str(each)) for each in (workspace, directory / SENT, directory / LOG))
    wrong = shlex.quote(f"palate: {workspace} is not the studio's on the cluster's head: both must see the same disk")
    look = f'[ "$(cat {mark} 2>/dev/null)" = {name} ] || {{ echo {wrong}; exit 2; }}'
    return f"{look}; cd {here} && exec python {shlex.join(command[1:])} >> {log} 2>&1"


def run(command: Sequence[str]) -> int:
    """A command of the command line, or ``score``, which only the app has a use for."""
    try:
        if command[0] == "score":
            from palate.studio.training.scoring import main as score

            score(command[1:])
            return 0
        if command[0] in _WORDED:
            command = _WORDED[command[0]](Path(command[1]), Path(command[3]))
    except PalateError as error:
        print(f"palate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"palate: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    from palate import cli

    return cli.main(command)


def recipes_apart(file: Path, out: Path) -> list[str]:
    """The command line of a comparison, of which the app keeps all recipes in one file.

    Each gets a file of its own under ``out``; the same command goes on with what was begun.
    """
    from palate.recipe import load_recipe
    from palate.studio.training.recipebook import ComparisonRecipe

    whole = load_recipe(ComparisonRecipe, file)
    folder = out / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["compare"]
    for name, tree in whole.methods.items():
        disk.write_text(folder / f"{name}.toml", tomli_w.dumps(tree))
        command.append(f"{name}={folder / name}.toml")
    disk.write_text(out / "evaluation.toml", tomli_w.dumps(whole.evaluation))
    command += ["--eval", str(out / "evaluation.toml"), "--seeds", str(whole.seeds), "--out", str(out)]
    return command + (["--allow-different", *whole.allow_different] if whole.allow_different else [])


def about_file(file: Path, out: Path) -> list[str]:
    """The command line that filters or mines a file; its report is the run's."""
    from palate.recipe import load_recipe
    from palate.studio.training.earlier_runs import KEPT, MINED
    from palate.studio.training.recipebook import FileRecipe

    said = load_recipe(FileRecipe, file)
    command = ["data", "filter"] if said.stage == "filter" else ["data", "mine", said.kind]
    made = KEPT if said.stage == "filter" else MINED
    command += [said.path, "--out", str(out / made), "--report", str(out), "--format", said.format]
    for option, values in (("--field", said.fields), ("--verdict", said.verdicts)):
        command += [word for name, value in values.items() for word in (option, f"{name}={value}")]
    for option, names in (("--tag", said.tags), ("--ignore", said.ignore)):
        command += [word for name in names for word in (option, name)]
    return command


def agents(file: Path, out: Path) -> list[str]:
    """The command line of an agent; the same command goes on with what was begun."""
    from palate.recipe import load_recipe
    from palate.studio.training.recipebook import AgentRuns

    whole = load_recipe(AgentRuns, file)
    disk.write_text(out / "agent.toml", tomli_w.dumps(whole.agent))
    command = ["agent", str(out / "agent.toml"), "--seeds", str(whole.seeds), "--out", str(out)]
    return command + (["--alone"] if whole.alone else [])


def covering(file: Path, out: Path) -> list[str]:
    """The command line that lays prompts beside what a reward model learned from."""
    from palate.recipe import load_recipe
    from palate.studio.training.recipebook import CoverageRecipe

    said = load_recipe(CoverageRecipe, file)
    return ["coverage", said.reward, "--prompts", said.prompts, "--seed", str(said.seed), "--out", str(out)]


def rounds(file: Path, out: Path) -> list[str]:
    """The command line of rounds; the same command goes on with what was begun."""
    return ["rounds", str(file), "--out", str(out)]


_WORDED: Mapping[str, Callable[[Path, Path], list[str]]] = {
    "compare": recipes_apart,
    "filter": about_file,
    "mine": about_file,
    "coverage": covering,
    "rounds": rounds,
    "agent": agents,
}
"""Commands that take more, or other, words than a recipe, where it goes, and whether it goes on."""


def write_note(directory: Path, note: Note) -> None:
    """Put the note down, whole or not at all."""
    said = {"pid": note.process.pid, "started": note.process.started, "status": note.status}
    disk.write_text(directory / FILE, json.dumps(said) + "\n")


def read_note(directory: Path) -> Note | None:
    """The note in a run directory, if there is one."""
    try:
        said = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Note(Process(said["pid"], said["started"]), said["status"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
