"""A demonstration: a chain of stages, each with a run directory of its own, and the files between them.

Every stage starts with a recipe that is written there, so that it can be repeated or changed alone. A demonstration
that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palate import disk
from palate.corpus.splits import large_enough
from palate.lm.memory import give_back_freed_memory
from palate.lm.sources.zoo import Precision
from palate.randomness import permutation
from palate.recipe import Holdout, Section, parse_recipe
from palate.records import Prompt, Record
from palate.run.directory import Run


class Chain:
    """What the stages and files of one demonstration have in common.

    Args:
        out: its directory.
        seed: all randomness follows from it.
        frozen_layers: of every model that learns, where a stage names no other number.
        precision: of matrix products.
    """

    def __init__(self, out: Path, seed: int, *, frozen_layers: int, precision: Precision = "auto") -> None:
        self.out, self.seed, self.frozen_layers, self.precision = out, seed, frozen_layers, precision
        self.stages: list[str] = []

    def stage(self, name: str, kind: type[Section], train: Callable[[Any, Run], None], **settings: Any) -> None:
        """Run a stage with these settings, as `perform` does; what all have in common need not be among them."""
        if "frozen_layers" in kind.model_fields:
            settings.setdefault("frozen_layers", self.frozen_layers)
        self.perform(name, parse_recipe(kind, {"seed": self.seed, "precision": self.precision, **settings}), train)

    def perform(self, name: str, recipe: Section, train: Callable[[Any, Run], None]) -> None:
        """Run a stage into its own directory, unless it is finished; resume it if it was begun."""
        directory = self.out / name
        run = Run.open(directory, recipe, resume=(directory / "lineage.json").exists())
        if not run.finished:
            run.say(f"== {name}")
            train(recipe, run)
            give_back_freed_memory()
        self.stages.append(name)

    def seconds(self) -> float:
        """Time that the stages took, over all processes that worked on them."""
        return float(sum(self.figures(name)["seconds"] for name in self.stages))

    def figures(self, name: str) -> dict[str, Any]:
        """What a finished stage reported."""
        return dict(json.loads((self.out / name / "report.json").read_text(encoding="utf-8")))

    def metrics(self, name: str) -> list[dict[str, float]]:
        """What a stage logged, step by step."""
        lines = (self.out / name / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def shuffled(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """In an order that depends on the seed."""
        return [prompts[index] for index in permutation(len(prompts), self.seed, "demo")]

    def holdout(self, data: str, kind: type[Record]) -> dict[str, float]:
        """A tenth of the prompts; more where so few are left that a tenth may be none."""
        return {"fraction": large_enough(self.read(data, kind), Holdout(fraction=0.1)).fraction}

    def data(self, name: str) -> Mapping[str, str]:
        """A recipe's data section for one of our files."""
        return {"path": str(self.out / name)}

    def write(self, name: str, records: Sequence[Record]) -> None:
        """One record per line."""
        disk.write_text(self.out / name, "".join(record.to_json() + "\n" for record in records))

    def read(self, name: str, kind: type[Any]) -> list[Any]:
        """What `write` wrote."""
        lines = (self.out / name).read_text(encoding="utf-8").split("\n")[:-1]
        return [kind.model_validate_json(line) for line in lines]
