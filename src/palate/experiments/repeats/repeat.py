"""Recipes over seeds: every figure of their reports with its spread, and what of that each source of randomness does.

    NAME/seed-0/             a run of the recipe's own stage, every source of randomness drawn by seed 0
    NAME/seed-0-sampling/    the same with one source drawn anew (`--apart sampling`)
    report.html, .json       every figure; written anew after every draw

What is finished is not run again; killed in the middle, the same command goes on, with the same bits; more seeds, or
sources, are added to what is there. A run that fails is shown with its reason, and the others go on. A source whose
first run anew changes no figure to the last bit plays no part, and its other runs are left out.

Run it: `palate repeat recipes/sft.toml --seeds 5`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from palate.errors import DiskFullError, MachineError, PalateError, RecipeError, RunError
from palate.experiments.repeats import pipelines
from palate.experiments.repeats.draws import Draw, Part, directory_of, sources_of
from palate.experiments.repeats.repeat_page import write_report
from palate.experiments.repeats.told import Told, figures_of, read_figures, same
from palate.lm.memory import give_back_freed_memory
from palate.run.directory import Run
from palate.run.trackers import duration
from palate.stages.estimate.trial import foresee, tell


class Repeat:
    """Parts, seeds, and the sources that are drawn apart.

    Args:
        parts: each with a name of its own, in the order in which they are run.
        out: directory of everything.
        seeds: how many: 0, 1, ...
        apart: sources of randomness, whose part in the spread is found.

    Raises:
        RecipeError: no recipe has such a source, or what is asked of it needs more seeds.
    """

    def __init__(self, parts: Sequence[Part], out: Path, *, seeds: int, apart: Sequence[str] = ()) -> None:
        self.parts, self.out, self.seeds, self.apart = list(parts), out, seeds, list(apart)
        known = sources_of(parts)
        if strange := [name for name in apart if name not in known]:
            has = f"there are {', '.join(known)}" if known else "they have none"
            hint = "; draw_labelers = true draws them" if strange[0] == "labelers" else ""
            raise RecipeError(f"--apart {strange[0]}: the recipes draw no such thing, or fix its seed; {has}{hint}")
        if apart and seeds < 2:
            raise RecipeError("--apart needs 2 seeds or more")
        self.told: dict[Draw, Told] = {}
        self.failed: dict[Draw, str] = {}
        self.idle: list[str] = []

    def run(self) -> None:
        """Everything that is not there yet, and the report.

        Raises:
            PalateError: a mistake that is found before anything is run, or every run failed.
        """
        self.check()
        took: list[float] = []
        whole = self.seeds * (1 + len(self.apart))
        for number, draw in enumerate(self.draws()):
            if draw.anew in self.idle:
                continue
            began = time.monotonic()
            left = f", about {duration(sum(took) / len(took) * (whole - number))} left" if took else ""
            if self._draw(draw, f"{draw}: draw {number + 1} of {whole}{left}"):
                took.append(time.monotonic() - began)
            usual = Draw(seed=draw.seed)
            if draw.anew and draw.seed == 0 and draw in self.told and same(self.told[draw], self.told.get(usual, {})):
                self.idle.append(draw.anew)
            self._report()
        if not self.told:
            raise RunError(f"{self.out}: every run failed; the first: {next(iter(self.failed.values()))}")

    def draws(self) -> Iterator[Draw]:
        """All of them: first seed after seed, so that the spread is known soon, then each source apart."""
        for source in ("", *self.apart):
            yield from (Draw(seed=seed, anew=source) for seed in range(self.seeds))

    def check(self) -> None:
        """Find mistakes before hours are spent: in keys, and in what the parts need that follow none."""
        for draw in self.draws():
            for number, part in enumerate(self.parts):
                directory, recipe = directory_of(self.parts, number, draw, self.out)
                first = draw == Draw(seed=0) or (part.of_seed and not draw.anew)
                if first and not part.follows and not _begun(directory):
                    if part.is_pipeline:
                        pipelines.check(recipe, directory)
                        continue
                    with TemporaryDirectory(prefix="palate-repeat-") as temporary:
                        told = tell(part.train, recipe, Path(temporary))
                    if told.short:
                        raise MachineError(f"{part.name}: {told.short}")

    def estimate(self) -> str:
        """What it will take, from two steps of each part that needs nothing of those before it."""
        lines, whole, unknown = [], 0.0, []
        for number, part in enumerate(self.parts):
            every = {directory_of(self.parts, number, draw, self.out)[0] for draw in self.draws()}
            missing = sorted(each for each in part.follows if not self._is_there(each))
            if missing:
                lines.append(f"{part.name}: {len(every)} runs; not timed before {', '.join(missing)} has run")
                unknown.append(part.name)
                continue
            directory, recipe = directory_of(self.parts, number, Draw(seed=0), self.out)
            if part.is_pipeline:
                lines.append(f"{part.name}: {len(every)} runs; {pipelines.takes(recipe, directory)}")
                unknown.append(part.name)
                continue
            found = foresee(part.train, recipe)
            lines.append(f"{part.name}: {len(every)} runs; {found.lines[-1]}")
            whole += len(every) * (found.seconds or 0.0)
            unknown += [part.name] if found.seconds is None else []
        beside = f", without {', '.join(unknown)}" if unknown else ""
        lines.append(f"{self.seeds} seeds, {len(self.apart)} sources apart: {duration(whole)}{beside}, at most")
        return "\n".join(lines)

    def _is_there(self, name: str) -> bool:
        number = next(place for place, part in enumerate(self.parts) if part.name == name)
        return (directory_of(self.parts, number, Draw(seed=0), self.out)[0] / "report.json").exists()

    def _draw(self, draw: Draw, said: str) -> bool:
        """Every part of a draw that is not there yet; whether there was anything to do."""
        figures: dict[str, Any] = {}
        ran = False
        for number, part in enumerate(self.parts):
            directory, recipe = directory_of(self.parts, number, draw, self.out)
            try:
                run = Run.open(directory, recipe, resume=_begun(directory))
                if not run.finished:
                    run.say(f"== {part.name}, {said}")
                    ran = True
                    part.train(recipe, run)
            except DiskFullError:
                raise
            except PalateError as error:
                self.failed[draw] = f"{part.name}: {error}"
                return ran
            finally:
                give_back_freed_memory()
            of_part = read_figures(directory)
            figures |= {f"{part.name}: {name}" if len(self.parts) > 1 else name: each for name, each in of_part.items()}
        self.told[draw] = figures
        return ran

    def _is_missing(self, draw: Draw) -> bool:
        """It is still to be run."""
        return draw not in self.told and draw not in self.failed and draw.anew not in self.idle

    def _report(self) -> None:
        if any(not draw.anew for draw in self.told):
            write_report(
                self.out,
                self.parts,
                figures_of(self.told, self.idle, self.apart),
                missing=sum(self._is_missing(draw) for draw in self.draws()),
                failed=self.failed,
                idle=self.idle,
                apart=self.apart,
            )


def _begun(directory: Path) -> bool:
    return (directory / "lineage.json").exists()
