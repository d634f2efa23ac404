"""A run directory: what was asked for, what happened, and everything needed to go on after being killed at any instant.

    recipe.toml      the recipe with every default filled in
    lineage.json     hashes of what was read, versions, machine, times, parents
    metrics.jsonl    one line per step                  samples.jsonl   responses sampled on the way
    checkpoints/     the newest few, until the run is finished
    model/           what came out, written by the stage
    report.json      the figures of the finished run

A stage is one loop over `Run.steps`, which restores, checkpoints and stops; the stage itself knows nothing of it:

    run = Run.open("runs/ppo", recipe)
    run.add_inputs({"data": data.files, "model": weights})
    for step in run.steps(total, every=20, keep=2, state={"policy": optimizer}):
        run.log(step, {"objective/score": 0.3})
    run.finish({"score": 0.3})

Of a run in several processes the first one writes; the others have a `Following`. Left out: an experiment database (a
directory is one), and writing from several processes (a lock refuses it).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
import tomllib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import tomli_w
from pydantic import BaseModel, ValidationError

from palate import disk
from palate.errors import RunError, TrainingError
from palate.records import content_id
from palate.run import checkpoints, lineage
from palate.run.checkpoints import Stateful
from palate.run.locking import lock
from palate.run.metrics import explain
from palate.run.signals import StopRequest
from palate.run.trackers import Terminal, Tracker, duration
from palate.run.world import world

_DATA = ("data", "held_out", "prompts", "pretraining", "candidates", "people")
"""The inputs that are files of data; the others are models."""
_ELSEWHERE = (
    *("cluster.trainers", "cluster.engines", "cluster.cpus", "cluster.gpus", "cluster.restarts"),
    *("engine.servers", "engine.key_variable", "engine.weights"),
)
"""Keys of a recipe with which a run goes on elsewhere, and is the same run."""


class Run:
    """One run of one stage in its directory; made by `Run.open`.

    Attributes:
        directory: where everything of the run is; the stage writes its model to ``directory / "model"``.
        stage: name of the stage.
        resumed: it was started before.
    """

    def __init__(self, directory: Path, record: dict[str, Any], *, resumed: bool, trackers: Sequence[Tracker]) -> None:
        self.directory, self.resumed, self.stage = directory, resumed, str(record["stage"])
        self._record, self._trackers, self._terminal = record, tuple(trackers), Terminal()
        self._notes: list[str] = []
        self._begun, self._accepts_changed_data = resumed and _has_begun(directory), False
        self._metrics: dict[str, float] = {}
        self._next_step = 0
        self._seconds_before, self._clock = 0.0, time.monotonic()
        self._unlock = weakref.finalize(self, os.close, lock(directory))

    @classmethod
    def open(
        cls,
        directory: Path | str,
        recipe: BaseModel,
        *,
        resume: bool = False,
        accept_changed_data: bool = False,
        trackers: Sequence[Tracker] = (),
    ) -> Self:
        """Create the directory, or go on with the run in it.

        A run that was stopped before its first step, by an error in its recipe perhaps, may be started again.

        Args:
            directory: usually ``runs/<name>``.
            recipe: the stage's resolved recipe.
            resume: go on with a run that was started before; if it is finished, say so.
            accept_changed_data: its data files may have changed since; the lineage says which did, and when.
            trackers: told of every step, besides the terminal.

        Raises:
            RunError: there is a run and no ``resume``, or the other way round, or its recipe is another one, or
                another process is working on it.
        """
        directory, opened = Path(directory), list[Self]()

        def begin() -> tuple[dict[str, Any], bool]:
            with disk.disk_errors(directory):
                opened.append((cls._resume if resume else cls._create)(directory, recipe, trackers))
            opened[0]._accepts_changed_data = accept_changed_data
            return opened[0]._record, opened[0]._begun

        record, begun = world().once(begin, "the run directory to be opened")
        return opened[0] if opened else cls._following(directory, record, resumed=resume, begun=begun)

    @classmethod
    def _following(cls, directory: Path, record: dict[str, Any], *, resumed: bool, begun: bool) -> Self:
        from palate.run.following import Following

        return cast("Self", Following(directory, record, resumed=resumed, begun=begun))

    @classmethod
    def _create(cls, directory: Path, recipe: BaseModel, trackers: Sequence[Tracker]) -> Self:
        if _has_begun(directory):
            raise RunError(f"{directory} already holds a run: go on with it by --resume, or name another --out")
        tree = _plain(recipe)
        text = tomli_w.dumps(tree)
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        stage = str(tree.get("stage", type(recipe).__name__))
        run = cls(directory, lineage.begin(stage, tree, content_id(text)), resumed=False, trackers=trackers)
        disk.write_text(directory / "recipe.toml", text)
        run._write_record()
        return run

    @classmethod
    def _resume(cls, directory: Path, recipe: BaseModel, trackers: Sequence[Tracker]) -> Self:
        record = _read_record(directory)
        if record is None:
            raise RunError(f"{directory} holds no run to go on with: leave out --resume, or correct --out")
        if changed := _differences(_as_today(_read_recipe(directory), type(recipe)), _plain(recipe)):
            raise RunError(
                f"{directory}: a resume with a changed recipe ({', '.join(changed)}); "
                "give the run another --out, or put the recipe back as it was"
            )
        run = cls(directory, record, resumed=True, trackers=trackers)
        if run.finished:
            run.say(f"{directory}: this run finished at {record['ended']}; nothing is left to do")
        else:
            record["resumed"].append(lineage.now())
            run._write_record()
        return run

    @property
    def finished(self) -> bool:
        """`finish` was called, now or in an earlier process: there is nothing left to do."""
        return self._record["ended"] is not None

    def go_on(self) -> None:
        """Something was done before in a run inside it, so that what it reads must not have changed."""
        self._begun = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, skipped or assumed so far."""
        return tuple(self._notes)

    @property
    def seconds(self) -> float:
        """Time spent on what the run is now; time lost when it was killed is not counted."""
        return self._seconds_before + time.monotonic() - self._clock

    def add_inputs(self, inputs: Mapping[str, str | Mapping[str, str]]) -> None:
        """Record hashes of what the run reads.

        Raises:
            RunError: the run goes on after some steps and something is not what it was when it began: a model, or data
                whose change was not accepted.
        """
        everywhere = world().whole([content_id(disk.json_text(inputs))], "hashes of what is read")
        if strangers := [str(rank) for rank, each in enumerate(everywhere) if each != everywhere[0]]:
            what = f"{', '.join(inputs)} of process {', '.join(strangers)} is not what process 0 reads"
            raise RunError(f"{what}: give every machine the same files, best on a disk that all of them see")
        known = dict(lineage.flatten(self._record["inputs"]))
        for key, value in lineage.flatten(inputs):
            if self._begun and known.get(key, value) != value:
                self._change_data(key, known[key], value)
        self._record["inputs"] |= {
            key: value if isinstance(value, str) else dict(value) for key, value in inputs.items()
        }
        self._write_record()

    def _change_data(self, key: str, before: str, after: str) -> None:
        is_data = key.partition(".")[0] in _DATA
        if not (is_data and self._accepts_changed_data):
            accept = ", go on with it by --accept-changed-data" if is_data else ""
            raise RunError(
                f"{self.directory}: {key} has changed since this run began; put it back{accept}, or name another --out"
            )
        change = {"file": key, "before": before, "after": after, "accepted": lineage.now()}
        self._record.setdefault("changed_data", []).append(change)

    def settle(self, name: str, choose: Callable[[], int]) -> int:
        """A number that the recipe leaves open: chosen once, and the same whenever the run goes on."""

        def settled() -> int:
            known = self._record.setdefault("settled", {})
            if not (self._begun and name in known):
                known[name] = choose()
                self._write_record()
            return int(known[name])

        return world().once(settled, name)

    def steps(self, total: int, *, every: int, keep: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        """The steps that are still to be done; after a resume the state is put back first.

        A checkpoint is written after every ``every`` steps and after the last one. On Ctrl-C or SIGTERM the step at
        hand is finished and a checkpoint written.

        Args:
            total: steps of the whole run.
            every: steps between checkpoints.
            keep: checkpoints that are kept.
            state: all that changes from step to step, by name.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
            DiskFullError: a checkpoint did not fit on the disk.
            KeyboardInterrupt: a stop was asked for.
        """
        assert not self.finished, "a finished run has no steps"
        self._record["total_steps"] = total
        self._write_record()
        if self.resumed:
            self._restore(state)
        self._terminal.start(self.stage, self._next_step, total)
        try:
            with StopRequest() as stop:
                for step in range(self._next_step, total):
                    yield step
                    self._terminal.step(step, self._metrics)
                    self._next_step, stopping = step + 1, any(world().whole([stop.asked], "the end of a step"))
                    if stopping or (step + 1) % every == 0 or step + 1 == total:
                        checkpoints.check_alike(state)
                        self._save(state, keep)
                    if stopping:
                        raise KeyboardInterrupt(f"stopped at step {step + 1} of {total}")
        finally:
            self._terminal.close()
            for tracker in self._trackers:
                tracker.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step, once for each step.

        Raises:
            TrainingError: a metric is not finite.
            DiskFullError: there is no room for the line.
        """
        assert step == self._next_step, f"step {step} is logged, but step {self._next_step} is being done"
        unknown = [name for name in metrics if explain(name) is None]
        assert not unknown, f"explain {', '.join(unknown)} in palate/run/metrics.py"
        wrong = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"step {step}: {', '.join(wrong)}; look at {self.directory}/metrics.jsonl, try a lower learning rate"
            )
        self._metrics = {name: float(value) for name, value in metrics.items()}
        self.append("metrics.jsonl", _line({"step": step, **self._metrics}))
        for tracker in self._trackers:
            tracker.log(step, self._metrics)

    def samples(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Keep a few responses of this step to be read later."""
        self.append("samples.jsonl", "".join(_line({"step": step, **row}) for row in rows))
        for tracker in self._trackers:
            tracker.text(step, rows)

    def append(self, name: str, text: str) -> None:
        """Add to a file of the run's."""
        disk.append_text(self.directory / name, text)

    def rewrite(self, name: str, text: str) -> None:
        """Replace a file of the run's."""
        disk.write_text(self.directory / name, text)

    def say(self, message: str) -> None:
        """Print a line."""
        self._terminal.say(message)

    def note(self, message: str) -> None:
        """Print a line that belongs in the report too: what was dropped, skipped or assumed."""
        self._notes.append(message)
        self.say(message)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write `report.json` and mark the run as finished; call it last, after the model was written.

        What the stage reports is added to what is known here and to what a written report holds already. The model is
        flushed to the disk first; the checkpoints, which a finished run has no use for, are deleted last.
        """
        world().once(lambda: self._finish(report), "the run to be finished")

    def _finish(self, report: Mapping[str, Any]) -> None:
        known = {
            "stage": self.stage,
            "recipe": self._record["recipe"],
            "steps": self._next_step,
            "seconds": round(self.seconds, 3),
            "metrics": self._metrics,
            "notes": self._notes,
        }
        with disk.disk_errors(self.directory):
            disk.flush_tree(self.directory / "model")
            path = self.directory / "report.json"
            figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            disk.write_text(path, disk.json_text(figures | known | dict(report), indent=2) + "\n")
            self._record["ended"] = lineage.now()
            self._write_record()
            shutil.rmtree(self.directory / "checkpoints")
            (self.directory / "checkpoints").mkdir()
        self._unlock()
        for note in self._notes:  # said long ago, most of them
            self.say(note)
        self.say(f"{self.directory}: {self.stage} finished after {duration(self.seconds)}")

    def _save(self, state: Mapping[str, Stateful], keep: int) -> None:
        checkpoints.save(self.directory / "checkpoints", self._next_step, state, seconds=self.seconds, keep=keep)

    def _restore(self, state: Mapping[str, Stateful]) -> None:
        found = checkpoints.load_newest(self.directory / "checkpoints", state, self.note)
        if found is not None:
            self._take(found, state)
        world().once(lambda: found and found.step, "the checkpoint to be read")
        for name in ("metrics.jsonl", "samples.jsonl"):
            rows = _keep_rows(self.directory / name, self._next_step)
            if name == "metrics.jsonl" and rows:
                self._metrics = {key: value for key, value in rows[-1].items() if key != "step"}
        for change in self._record.get("changed_data", []):
            change.setdefault("step", self._next_step)
            self.note(f"{change['file']} was changed, as was accepted: it is another one from step {change['step']} on")
        self._write_record()
        self.say(
            f"going on at step {self._next_step}" if found else "no checkpoint was finished yet: starting at step 0"
        )

    def _take(self, found: checkpoints.Checkpoint, state: Mapping[str, Stateful]) -> None:
        for name, stateful in state.items():
            stateful.load_state_dict(found.states.pop(name))
        self._next_step = found.step
        self._seconds_before, self._clock = found.seconds, time.monotonic()

    def _write_record(self) -> None:
        disk.write_text(self.directory / lineage.FILE, disk.json_text(self._record, indent=2) + "\n")


def _has_begun(directory: Path) -> bool:
    """Whether a run finished there, or did a step that somebody may want to go on from."""
    record = _read_record(directory)
    begun = (directory / "metrics.jsonl").exists() or any((directory / "checkpoints").glob("step-*"))
    return record is not None and (begun or record["ended"] is not None)


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        return lineage.read(directory)
    except ValueError as error:
        raise RunError(f"{directory / lineage.FILE} cannot be read ({error}): name another --out") from None


def _read_recipe(directory: Path) -> dict[str, Any]:
    path = directory / "recipe.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{path} was changed and cannot be read ({error}): name another --out") from None


def _as_today(tree: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """A recipe as an earlier version wrote it, with the defaults of keys that are new since then."""
    try:
        return _plain(kind.model_validate(tree))
    except ValidationError:  # a key that is gone: it shows among the differences
        return tree


def _plain(recipe: BaseModel) -> dict[str, Any]:
    """What TOML can say of a recipe; it has no null."""
    return tomllib.loads(tomli_w.dumps(recipe.model_dump(exclude_none=True)))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = dict(lineage.flatten(old)), dict(lineage.flatten(new))
    keys = [key for key in before | after if before.get(key) != after.get(key) and not _is_elsewhere(key)]
    return [f"{key}: {before.get(key, 'absent')} is now {after.get(key, 'absent')}" for key in keys]


def _is_elsewhere(key: str) -> bool:
    return re.sub(r"\.\d+$", "", key) in _ELSEWHERE


def _line(row: Mapping[str, object]) -> str:
    return disk.json_text(row, ensure_ascii=False) + "\n"


def _keep_rows(path: Path, before: int) -> list[dict[str, Any]]:
    """Drop the lines of steps that will be done again, and one that was torn; the kept ones are returned."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            continue
        if row["step"] < before:
            rows.append(row)
    disk.write_text(path, "".join(map(_line, rows)))
    return rows
