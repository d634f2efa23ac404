"""Is there room for it? Asked before the first weight is read, so that the answer no is one line, with what would help.

The setting that would help is computed: every candidate is estimated like the run itself, and the first that fits is
named. So is the size of a microbatch where the recipe leaves it open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from palate.errors import MachineError
from palate.machine import available_memory, gb
from palate.recipe import AUTO, Adapter, Section
from palate.run.directory import Run
from palate.run.world import world
from palate.stages.estimate.trial import Trial
from palate.stages.estimate.workload import Moment, Workload

RecipeT = TypeVar("RecipeT", bound=Section)
Changes = dict[str, Any]
"""Values of a recipe by their keys, as `--set` takes them."""

MOST_TOKENS, FEWEST_TOKENS = 16_384, 256
"""Between these lies a microbatch whose size is chosen: larger ones are no faster, smaller ones hardly need less."""
SHARE = 0.8
"""Of what is there: how much a chosen microbatch may take, as estimates and other programs are what they are."""


def left(device: str) -> int | None:
    """Bytes that a process of a run could have: of its GPU, or of the machine or the container, which it may share with
    others of the run; None if nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = available_memory()
    return None if free is None else free // world().here


def expect(run: Run, recipe: RecipeT, device: str, whole: Callable[[RecipeT], Workload]) -> RecipeT:
    """Say what the run will take, and go on only if that is there.

    Args:
        run: says it, and remembers a size of microbatches that was chosen.
        recipe: of the stage.
        device: where it will run.
        whole: what one process would have to do of a recipe; called with other settings as well.

    Returns:
        The recipe, with a number where it said ``auto``.

    Raises:
        MachineError: there is too little memory; names the settings that would make it fit.
    """
    processes = _processes(run, recipe)

    def workload(recipe: RecipeT) -> Workload:
        return replace(whole(recipe), processes=processes)

    room = run.memory if isinstance(run, Trial) and run.elsewhere else left(device)
    if getattr(recipe, "microbatch_tokens", None) == AUTO:
        number = run.settle("microbatch_tokens", lambda: largest_microbatch(recipe, room, workload))
        recipe = with_changes(recipe, {"microbatch_tokens": number})
    work = workload(recipe)
    peak = work.peak
    fits = room is None or peak.total <= room or (isinstance(run, Trial) and not run.advises)
    short = "" if fits or room is None else too_large(recipe, peak, room, workload)
    if isinstance(run, Trial):
        run.tell(recipe, work, room, short)
    else:
        say(run, work, peak, room)
        if short:
            raise MachineError(short)
    return recipe


def _processes(run: Run, recipe: Any) -> int:
    """That divide the weights: those that there are, or, where nothing is begun yet, that are going to be."""
    cluster = getattr(recipe, "cluster", None)
    if cluster is None or cluster.shard == "none":
        return 1
    return int(cluster.trainers) if isinstance(run, Trial) else world().size


def say(run: Run, work: Workload, peak: Moment, room: int | None) -> None:
    """The short form: a line on memory, one on tokens, and what else there is to say."""
    parts = sorted(peak.parts.items(), key=lambda item: -item[1])
    main = ", ".join(f"{name} {gb(size)}" for name, size in parts[:3])
    there = "" if room is None else f"; {gb(room)} are left"
    each = "" if work.processes == 1 else f"each of {work.processes} processes has "
    run.say(f"memory: {each}{gb(peak.total)} at the peak, {peak.name} ({main}){there}")
    run.say(tokens(work))
    for note in work.notes:
        run.note(note)


def tokens(work: Workload) -> str:
    """How many, in a line."""
    steps = f", about {sum(work.steps) // len(work.steps):,} a step, {sum(work.steps):,} in all" if work.steps else ""
    return f"tokens: {work.data:,} in the data{steps}"


def largest_microbatch(recipe: RecipeT, room: int | None, workload: Callable[[RecipeT], Workload]) -> int:
    """The largest that fits, halving from `MOST_TOKENS`, or 4,096 if nobody knows.

    Where something else needs more than its share, such as sampling, the largest that does not need more than that.
    """
    if room is None:
        return 4096
    peaks = {}
    for number in halves(MOST_TOKENS):
        peaks[number] = workload(with_changes(recipe, {"microbatch_tokens": number})).peak.total
        if peaks[number] <= SHARE * room:
            return number
    return max(number for number, peak in peaks.items() if peak <= peaks[FEWEST_TOKENS])


def too_large(recipe: RecipeT, peak: Moment, room: int, workload: Callable[[RecipeT], Workload]) -> str:
    """One line: how much is needed, how much there is, and what would make it fit."""

    def first_that_fits(candidates: Sequence[Changes]) -> Changes | None:
        fits = (each for each in candidates if workload(with_changes(recipe, each)).peak.total <= room)
        return next(fits, None)

    ways = settings(recipe, layers=workload(recipe).nets[0].L)
    found = [changes for changes in map(first_that_fits, ways) if changes] or [
        changes for changes in map(first_that_fits, together(ways)) if changes
    ]
    said = (" and ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items()) for changes in found)
    advice = f"set {', or '.join(said)}" if found else "none of its settings makes it fit: take a smaller model"
    need = f"at its peak, {peak.name}, this run needs {gb(peak.total)} of memory"
    return f"{need}, and {gb(room)} are left here: {advice}"


def settings(recipe: Any, *, layers: int) -> list[list[Changes]]:
    """Ways to need less, each from the mildest on."""
    ways: list[list[Changes]] = [[{"microbatch_tokens": number} for number in halves(_microbatch(recipe) // 2)]]
    if getattr(recipe, "recompute_activations", True) is False:
        ways.append([{"recompute_activations": True}])
    if hasattr(recipe, "sampling"):
        ways.append([{"sampling.num_slots": number} for number in halves(recipe.sampling.num_slots // 2, fewest=1)])
    if hasattr(recipe, "frozen_layers"):
        ways.append([{"frozen_layers": number} for number in range(recipe.frozen_layers + 1, layers + 1)])
    if getattr(recipe, "adapter", recipe) is None:
        ways.append([{"adapter.rank": 16}])
    return [way for way in ways if way]


def together(ways: Sequence[Sequence[Changes]]) -> list[list[Changes]]:
    """What changes no result, as far as it goes; and each of the other ways on top of that."""
    mild = [way[-1] for way in ways if not way[0].keys() & {"frozen_layers", "adapter.rank"}]
    smallest = {key: value for changes in mild for key, value in changes.items()}
    others = [way for way in ways if way[0].keys() & {"frozen_layers", "adapter.rank"}]
    return [[smallest], *([smallest | changes for changes in way] for way in others)]


def _microbatch(recipe: Any) -> int:
    return int(getattr(recipe, "microbatch_tokens", 0))


def halves(number: int, *, fewest: int = FEWEST_TOKENS) -> Iterator[int]:
    """The number, half of it, and so on, none smaller than ``fewest``."""
    while number >= fewest:
        yield number
        number //= 2


def with_changes(recipe: RecipeT, changes: Changes) -> RecipeT:
    """The recipe with other values; ``a.b`` reaches into a section, which is made if it is not there."""
    for key, value in changes.items():
        name, _, inner = key.partition(".")
        if inner:
            section = getattr(recipe, name) or Adapter()
            value = section.model_copy(update={inner: value})
        recipe = recipe.model_copy(update={name: value})
    return recipe
