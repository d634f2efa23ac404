"""What the process of a job runs: one command of `palate`, and a note of how it ended.

    python -P -m palate.studio.training.launch RUN_DIRECTORY sft RECIPE.toml --out RUN_DIRECTORY

``process.json`` in the run directory says which process it is from the beginning, and its exit status in the end. So
the app knows both after it was itself restarted; a note without a status, and no such process, means that it was
killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from palate import disk
from palate.errors import PalateError
from palate.studio.training import processes
from palate.studio.training.processes import Process

FILE = "process.json"


@dataclass(frozen=True, slots=True)
class Note:
    """Which process it is, and its exit status if it has come to its end."""

    process: Process
    status: int | None


def main(argv: Sequence[str]) -> int:
    """Run the command, with the note before and after."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an app in a shell's background ignores what cancels jobs
    directory, command = Path(argv[0]), argv[1:]
    process = processes.find(os.getpid())
    assert process is not None, "a process finds itself"
    write_note(directory, Note(process, None))
    status = 1  # of an error that nobody foresaw; its traceback is in the log
    try:
        status = run(command)
    finally:
        write_note(directory, Note(process, status))
    return status


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
