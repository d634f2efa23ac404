"""Engines of a run: started before its trainers, named to them, and there until the run ends, however it ends.

Each is an ordinary `palate engine` at a place of its own, which starts its vLLM again when that dies. Trainers that are
started again find the engines where they were. Their token is made here, and is in environments alone.

Left out: an engine that is itself gone, with its machine perhaps, is not placed anew. The run ends with a line that
names it, and `--resume` starts it with new ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from palate.errors import PeerError, RecipeError, RunError

if TYPE_CHECKING:
    from palate.cluster.restarting import Ended, Placed, Stop

VARIABLE = "PALATE_ENGINE_KEY"
"""Holds the token, at the engines and at the trainers."""


class Engines(Protocol):
    """Engines that have been started, each at its place.

    Attributes:
        addresses: as a recipe names them.
    """

    addresses: Sequence[str]

    def ended(self, seconds: float) -> Sequence[Ended]:
        """Which of them have ended since the last call; waits so long for one, and passes on what they say."""
        ...

    def answer(self) -> bool:
        """Whether all of them can be asked."""
        ...

    def end(self) -> None:
        """Of all that still run, and of what they have started."""
        ...


def engine_command(model: str, *, precision: str, slots: int, python: str = "") -> list[str]:
    """Of every engine, after ``python``; its host and port are added where it is placed.

    Args:
        model: of the recipe.
        precision: of the recipe.
        slots: responses that are drawn side by side.
        python: an interpreter that has vLLM; empty: an environment is made.
    """
    dtype = {"fp32": "float32", "bf16": "bfloat16"}.get(precision, "auto")
    command = ["-m", "palate", "engine", model, "--dtype", dtype, "--slots", str(slots)]
    return [*command, *(["--python", python] if python else [])]


def engine_settings(addresses: Sequence[str], weights: Path | None) -> list[str]:
    """What the trainers' recipe says of such engines, as values of ``--set``.

    Args:
        weights: a folder that all machines see, for weights on their way; None: the recipe names one.
    """
    folder = [] if weights is None else [f"engine.weights={json.dumps(str(weights))}"]
    servers = f"engine.servers={json.dumps([*addresses])}"
    return ["engine.kind=vllm", servers, f"engine.key_variable={VARIABLE}", *folder]


def as_the_trainers_read_it(tree: Mapping[str, Any], *, planned: int = 0) -> dict[str, Any]:
    """A recipe's tree with engines whose addresses nobody knows yet, if it asks for some.

    Args:
        planned: how many a plan is about, whatever the recipe says.

    Raises:
        RecipeError: it asks for some, and names servers as well.
    """
    cluster, engine = tree.get("cluster"), tree.get("engine", {})
    asked = cluster.get("engines") if isinstance(cluster, dict) else None
    if not isinstance(engine, dict) or not (asked or planned):
        return dict(tree)
    if "servers" in engine:
        if asked:
            raise RecipeError("cluster.engines starts engines, and engine.servers names others: leave one of them out")
        return dict(tree)
    return {**tree, "engine": {**engine, "kind": "vllm", "servers": ["http://127.0.0.1:1"]}}


def wait_for(engines: Engines, stop: Stop, *, every: float = 0.5) -> None:
    """Until all can be asked; they say themselves how long that takes.

    Raises:
        RunError: one could not be started, and has said why.
        PeerError: one is gone.
        KeyboardInterrupt: a stop was asked for meanwhile.
    """
    while not engines.answer():
        if stop.asked:
            raise KeyboardInterrupt("stopped before the engines could be asked")
        for end in engines.ended(every):
            kind = RunError if end.status == RunError.status else PeerError
            raise kind(f"{end} before it could be asked")


class Served:
    """Trainers with engines, as in `restarting.Placed`: without one of the engines they do not go on.

    Args:
        gang: the trainers.
        engines: stay when the trainers end.
    """

    def __init__(self, gang: Placed, engines: Engines) -> None:
        self.size, self._gang, self._engines = gang.size, gang, engines

    def ended(self, seconds: float) -> Sequence[Ended]:
        """Raises:
        PeerError: an engine is gone.
        """
        for end in self._engines.ended(0):
            raise PeerError(f"{end}, and the trainers cannot sample without it: go on with --resume")
        return self._gang.ended(seconds)

    def signal(self, number: int) -> None:
        """To the trainers."""
        self._gang.signal(number)

    def end(self) -> None:
        """Of the trainers."""
        self._gang.end()
