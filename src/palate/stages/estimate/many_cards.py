"""What a run takes on many cards: memory of each, bytes that move, seconds by part, and how many cards should sample.

All of it is computed, from the sizes of `workload` and from what a card is said to do; nothing is run. The rules:

    learning    2 operations a weight and token forward, 2 for what goes on below, 2 for a weight that learns
    scoring     2 a weight and token
    sampling    a decoding step reads all weights and the cache once, or multiplies, whichever takes longer
    gathering   (N - 1)/N of the weights, for every pass of every microbatch, and again for its backward pass
    reducing    (N - 1)/N of the gradients after every microbatch; 2 (N - 1)/N once an update where all weights are
                everywhere
    pushing     the policy to every engine, once a step

What moves is taken to wait for nothing and to be waited for: a run that overlaps it is faster. Left out: attention's
own operations (of 4 times the width times the context a layer and token), pipelines, a process that is slower than the
others.

Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, for operations; Rajbhandari et al. 2020 (arXiv 1910.02054), section
7, for what is moved; Pope et al. 2022 (arXiv 2211.05102) for decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from palate.machine import gb
from palate.run.directory import Run
from palate.stages.estimate import footprint
from palate.stages.estimate.network import Network
from palate.stages.estimate.trial import tell
from palate.stages.estimate.workload import SAMPLING, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What one process can have and do.

    Attributes:
        flops: operations a second in matrix products, at best.
        memory: bytes.
        bandwidth: bytes a second that are read from it, at best.
        link: bytes a second to another card of the same machine, each way.
        network: bytes a second to a card of another machine.
        per_machine: cards.
        products, reads, moves: what share of the three a run reaches.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    per_machine: int = 8
    products: float = 0.4
    reads: float = 0.6
    moves: float = 0.7


CARDS: Mapping[str, Card] = {
    "a100": Card(flops=312e12, memory=80e9, bandwidth=2.0e12, link=300e9, network=25e9),
    "h100": Card(flops=989e12, memory=80e9, bandwidth=3.35e12, link=450e9, network=50e9),
    "h200": Card(flops=989e12, memory=141e9, bandwidth=4.8e12, link=450e9, network=50e9),
    "rtx4090": Card(flops=165e12, memory=24e9, bandwidth=1.0e12, link=25e9, network=1.25e9, per_machine=4),
}
"""As their data sheets have them: products of dense bf16 added in fp32; in machines as they are commonly sold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who does what.

    Attributes:
        trainers: processes that learn.
        engines: processes that only sample; if 0, the trainers do, with whole weights.
        tensor_parallel: cards of one engine.
        sharded: each trainer keeps its part of the weights.
    """

    trainers: int
    engines: int = 0
    tensor_parallel: int = 1
    sharded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Through:
    """Passes through a model.

    Attributes:
        weights: bytes of them as they are stored.
        learned: bytes of their gradients; 0 in a pass that only looks.
        rows: tokens of one, shared prompts once.
        times: how many in a step.
    """

    weights: float
    learned: float
    rows: float
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The responses of a step.

    Attributes:
        responses: how many, ``slots`` of them side by side.
        tokens: of each, at most.
        prompts: tokens of all prompts, and ``prompt`` of one.
        weights: bytes of the policy as it is stored; a token is multiplied with ``numbers`` of ``width`` bytes.
        place: bytes of the cache for one token.
    """

    responses: int
    slots: int
    tokens: int
    prompts: float
    prompt: float
    weights: float
    numbers: float
    width: int
    place: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run, whoever computes it.

    Attributes:
        learning, scoring: operations.
        passes: through models.
        updates: of the weights.
        microbatch: rows of a pass at once, at most.
        drawing: None if a step samples nothing.
    """

    learning: float
    scoring: float
    passes: Sequence[Through]
    updates: int
    microbatch: int
    drawing: Drawing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a layout comes to.

    Attributes:
        memory: bytes of one trainer by part, at the moment that needs most, which is named ``moment``.
        moved: bytes that one trainer is sent in a step, by why.
        in_files: bytes of files that a machine reads, which its trainers have in the host's memory together.
        on_host: bytes that each trainer has there of its own besides, for a moment.
        seconds: of a step, by part.
        sampling, training: seconds of all cards together in a step, without what moves.
    """

    layout: Layout
    moment: str
    memory: Mapping[str, float]
    moved: Mapping[str, float]
    in_files: int
    on_host: int
    seconds: Mapping[str, float]
    sampling: float
    training: float

    @property
    def waits(self) -> float:
        """What share of a step one trainer is sent something, or waits for engines."""
        whole = sum(self.seconds.values())
        idle = self.seconds["sampling"] if self.layout.engines else 0.0
        return (self.seconds["moving"] + idle) / whole if whole else 0.0

    def shares(self) -> tuple[float, float]:
        """What share of the cards should sample: one after the other, and while the others learn (one step ahead).

        One after the other a step takes S/m + T/(n - m), least where m is to n - m as the roots of S and T are; at the
        same time it takes the longer of the two, least where both are the same.
        """
        one_after_the_other = sqrt(self.sampling) / (sqrt(self.sampling) + sqrt(self.training))
        return one_after_the_other, self.sampling / (self.sampling + self.training)


def planned(train: Callable[[Any, Run], None], recipe: Any, layout: Layout, card: Card) -> list[str]:
    """For people: what a run of this recipe would take there.

    Args:
        train: of the recipe's stage.
    """
    with TemporaryDirectory(prefix="palate-plan-") as directory:
        told = tell(train, recipe, Path(directory) / "told", memory=int(card.memory), on_gpu=True, advises=False)
    return describe(plan(told.work, step_of(told.recipe, told.work), layout, card), card)


def step_of(recipe: Any, work: Workload) -> Step:
    """What the steps of a run compute, on average."""
    epochs, minibatches = (recipe.epochs, recipe.minibatches) if work.decoding else (1, 1)
    learners = [each.net for each in work.learning]
    scored = [each.net for each in work.scoring] if work.decoding else []
    rows = sum(work.steps) / len(work.steps) / (epochs * len(learners))
    again = 2 if recipe.recompute_activations else 0
    learning = [
        Through(
            weights=_bytes(net),
            learned=footprint.gradients(net.model),
            rows=rows / minibatches,
            times=epochs * minibatches,
        )
        for net in learners
    ]
    return Step(
        learning=epochs * rows * sum(_operations(net) + again * _numbers(net) for net in learners),
        scoring=rows * sum(2 * _numbers(net) for net in scored),
        passes=[*learning, *(Through(weights=_bytes(net), learned=0, rows=rows) for net in scored)],
        updates=epochs * minibatches,
        microbatch=int(recipe.microbatch_tokens),
        drawing=_drawing(recipe, work, rows),
    )


def _drawing(recipe: Any, work: Workload, rows: float) -> Drawing | None:
    if not work.decoding:
        return None
    net, tokens = work.decoding[0].net, recipe.sampling.max_new_tokens
    responses = recipe.prompts_per_step * recipe.responses_per_prompt
    prompts = max(0.0, rows - responses * tokens)
    return Drawing(
        responses=responses,
        slots=recipe.sampling.num_slots,
        tokens=tokens,
        prompts=prompts,
        prompt=prompts / recipe.prompts_per_step,
        weights=_bytes(net),
        numbers=_numbers(net),
        width=net.p,
        place=footprint.cache(net, 1, 1),
    )


def plan(work: Workload, step: Step, layout: Layout, card: Card) -> Plan:
    """What a step of this run takes on cards of this kind.

    Args:
        work: its memory in one process.
        step: its computation.
    """
    moment, memory = _memory(work, layout)
    rate = card.flops * card.products
    training = (step.learning + step.scoring) / rate
    samplers = layout.engines or layout.trainers
    each = layout.tensor_parallel if layout.engines else 1
    seconds = _decoding(step.drawing, samplers, each, card)
    moved = _moved(step, layout)
    machines = ceil((layout.trainers + layout.engines * layout.tensor_parallel) / card.per_machine)
    line = (card.network if machines > 1 else card.link) * card.moves
    return Plan(
        layout=layout,
        moment=moment,
        memory=memory,
        moved=moved,
        in_files=work.in_files if layout.sharded else 0,
        on_host=work.on_host if layout.sharded else 0,
        seconds={
            "sampling": seconds,
            "scoring": step.scoring / rate / layout.trainers,
            "learning": step.learning / rate / layout.trainers,
            "moving": sum(moved.values()) / line,
        },
        sampling=seconds * samplers * each,
        training=training,
    )


def _memory(work: Workload, layout: Layout) -> tuple[str, Mapping[str, float]]:
    """Of one trainer at the moment that needs most; where there are engines, it does not sample."""
    work = replace(work, processes=layout.trainers if layout.sharded else 1)
    moments = [each for each in work.moments() if not (layout.engines and each.name in SAMPLING)]
    peak = max(moments, key=lambda moment: moment.total)
    return peak.name, dict(peak.parts)


def _decoding(drawing: Drawing | None, samplers: int, each: int, card: Card) -> float:
    """Seconds until all responses are drawn, by samplers of so many cards."""
    if drawing is None:
        return 0.0
    own = drawing.responses / samplers
    slots = min(drawing.slots, own)
    multiply = card.flops * card.products * each
    read = drawing.numbers * drawing.width + slots * (drawing.prompt + drawing.tokens / 2) * drawing.place
    one = max(read / (card.bandwidth * card.reads * each), 2 * drawing.numbers * slots / multiply)
    return 2 * drawing.numbers * drawing.prompts / samplers / multiply + own / slots * drawing.tokens * one


def _moved(step: Step, layout: Layout) -> dict[str, float]:
    """Bytes that come to one trainer, and its part of what goes to the engines."""
    n = layout.trainers
    share, policy = (n - 1) / n, step.drawing.weights if step.drawing else 0.0
    moved = {"gathering": 0.0, "reducing": 0.0, "pushing": policy * layout.engines / n}
    if not layout.sharded:
        moved["reducing"] = 2 * share * step.updates * sum(each.learned for each in step.passes)
        return moved
    for each in step.passes:
        parts = each.times * ceil(each.rows / n / step.microbatch)
        moved["gathering"] += share * each.weights * parts * (2 if each.learned else 1)
        moved["reducing"] += share * each.learned * parts
    if not layout.engines:
        moved["gathering"] += share * policy  # whole weights to sample with
    return moved


def _bytes(net: Network) -> float:
    return float(footprint.weights([net.model]))


def _numbers(net: Network) -> int:
    """Those that a token is multiplied with: of layers and head, and not of the embeddings, which are looked up."""
    head: Any = getattr(net.model, "lm_head", None) or getattr(net.model, "score", nn.Identity())
    return _count(weight for module in (*net.layers, head) for weight in module.parameters())


def _operations(net: Network) -> int:
    """Of one token in a pass that learns: forward, down to the lowest layer that learns, and for what learns."""
    below = net.layers[net.first :]
    head: Any = getattr(net.model, "lm_head", None) or getattr(net.model, "score", nn.Identity())
    back = _count(weight for module in (*below, head) for weight in module.parameters())
    learned = _count(weight for module in (*net.layers, head) for weight in module.parameters() if weight.requires_grad)
    return 2 * (_numbers(net) + back + learned)


def _count(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in {id(weight): weight for weight in weights}.values())


def describe(found: Plan, card: Card) -> list[str]:
    """For people."""
    layout, peak = found.layout, sum(found.memory.values())
    samplers = f"{layout.engines} engines of {layout.tensor_parallel}" if layout.engines else "no engines: they sample"
    lines = [f"computed, not measured: {layout.trainers} trainers, {samplers}"]
    fits = "it fits" if peak <= card.memory else "IT DOES NOT FIT"
    lines.append(
        f"memory of a trainer at its peak, {found.moment}: {gb(round(peak))} of {gb(round(card.memory))}, {fits}"
    )
    lines += [
        f"  {name:<14} {gb(round(size)):>10}"
        for name, size in sorted(found.memory.items(), key=lambda x: -x[1])
        if size
    ]
    if found.in_files:
        lines.append(f"at first each machine reads {gb(found.in_files)} of files, and its trainers share the pages")
    if found.on_host:
        lines.append(
            f"at first each trainer has {gb(found.on_host)} in the host's memory besides: transformers reads it"
        )
    lines.append(f"sent to a trainer in a step: {gb(round(sum(found.moved.values())))}")
    lines += [f"  {name:<14} {gb(round(size)):>10}" for name, size in found.moved.items() if size]
    lines.append(f"a step: {sum(found.seconds.values()):,.3g} s")
    lines += [f"  {name:<14} {seconds:>8,.3g} s" for name, seconds in found.seconds.items() if seconds]
    lines.append(f"a trainer waits for others in {found.waits:.0%} of a step")
    if found.sampling:
        turns, ahead = found.shares()
        cards = layout.trainers + layout.engines * layout.tensor_parallel
        lines.append(
            f"of {cards} cards {turns * cards:.1f} should sample if sampling and learning take turns, "
            f"{ahead * cards:.1f} if sampling is one step ahead"
        )
    return lines
