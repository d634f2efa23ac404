"""The page of coverage: a number each way, a map, the furthest prompts, parts nobody asks about, and the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from palate.evals.coverage import INSIDE, Coverage, Region
from palate.evals.discrimination import area_under_curve, by_quarter
from palate.evals.page import Report
from palate.evals.plots import ends_from, render
from palate.evals.theme import LIGHT
from palate.intervals import Estimate, Floats

FURTHEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Held-out pairs [N]: how far their prompts are, and whether the reward model has them wrong (ties half)."""

    distances: Floats
    wrong: Floats
    prompt_ids: Sequence[str]


def describe(
    report: Report,
    found: Coverage,
    texts: Sequence[str],
    places: tuple[Floats, Floats],
    parts: Sequence[Region],
    judged: Judged | None,
    *,
    seed: int,
) -> None:
    """Fill the page.

    Args:
        texts: [P] of the prompts.
        places: [N, A] and [P, A] of training prompts and prompts, whose first two axes are drawn.
    """
    inside, reached = found.inside, found.reached_share
    report.number(
        "inside",
        inside.value,
        low=inside.low,
        high=inside.high,
        label="Prompts inside",
        note=f"no further than {INSIDE:.0%} of training prompts are from each other: {INSIDE:.0%} of like prompts",
    )
    report.number(
        "reached",
        reached.value,
        low=reached.low,
        high=reached.high,
        label="Training prompts reached",
        note=f"{found.expected:.0%} by as many like prompts",
    )
    both = np.concatenate([found.distances, found.own_distances])
    kinds = np.arange(len(both)) < len(found.distances)
    apart = area_under_curve(both, kinds, [str(place) for place in range(len(both))], seed=seed)
    report.number(
        "further",
        apart.value,
        low=apart.low,
        high=apart.high,
        label="A prompt is further out",
        note="than a training prompt is from the others; 0.5: alike",
    )
    report.figure(
        "Map",
        mapped(places, found),
        "Training prompts as grey rings; prompts inside in blue, outside in orange, the furthest by their numbers. Two "
        f"of {places[0].shape[1]} axes, those in which training prompts differ most: what is apart here is apart, and "
        "what lies together may differ in the others.",
    )
    order = np.argsort(-found.distances, kind="stable")[:FURTHEST].tolist()
    report.table(
        f"The furthest {len(order)} prompts",
        ["", "distance, in edges", "prompt"],
        [
            [number + 1, f"{found.distances[place] / found.edge:.2f}", texts[place][:300]]
            for number, place in enumerate(order)
        ],
        "Of the edge of inside, which is 1: there the reward model was taught; beyond it, it guesses.",
    )
    report.table(
        "What was learned from, in parts",
        ["words", "a prompt in its middle", "training prompts", "reached", "prompts"],
        [
            [", ".join(each.words), each.example[:200], each.num_training, f"{each.reached:.0%}", each.num_prompts]
            for each in parts
        ],
        "The parts that prompts reach least come first. Parts are a help to the eye: another seed divides otherwise.",
    )
    if judged is not None:
        _errors(report, judged, seed)
    report.data("expected", found.expected)
    report.data("parts", [asdict(each) for each in parts])
    report.data("distances", [float(distance) for distance in found.distances])
    report.data("edge", found.edge)


def _errors(report: Report, judged: Judged, seed: int) -> None:
    quarters = by_quarter(judged.distances, judged.wrong, judged.prompt_ids, seed=seed)
    tells = area_under_curve(judged.distances, judged.wrong >= 0.5, judged.prompt_ids, seed=seed)
    report.data("error_by_distance", [{"from": low, "to": high, "wrong": rate.value} for low, high, rate in quarters])
    report.data("distance_tells_errors", tells.value)
    report.figure(
        "Errors against distance",
        errors(quarters),
        f"Of {len(judged.wrong)} held-out pairs, in four parts by how far their prompt is: the share that the reward "
        f"model has the other way round; 95% by prompt. Does distance tell where it errs? {tells} (0.5: no).",
    )


def mapped(places: tuple[Floats, Floats], found: Coverage) -> str:
    """The two first axes."""
    train, prompts = places
    inside = found.distances <= found.edge

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        for which, colour, label in ((inside, "blue", "prompts inside"), (~inside, "orange", "prompts outside")):
            axes.scatter(prompts[which, 0], prompts[which, 1], s=16, color=LIGHT[colour], linewidth=0, label=label)
        colour = LIGHT["muted"]
        axes.scatter(train[:, 0], train[:, 1], s=34, facecolor="none", edgecolor=colour, linewidth=0.6, label="learned")
        for number, place in enumerate(np.argsort(-found.distances, kind="stable")[:FURTHEST].tolist()):
            axes.annotate(
                str(number + 1),
                (prompts[place, 0], prompts[place, 1]),
                fontsize=7,
                xytext=(3, 3),
                textcoords="offset points",
            )
        axes.set_xlabel("first axis")
        axes.set_ylabel("second axis")
        axes.legend()

    return render(draw, (7.2, 5.4), "Where prompts lie among what was learned from")


def errors(quarters: Sequence[tuple[float, float, Estimate]]) -> str:
    """The share of errors in each quarter by distance."""

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        rates = [rate for _, _, rate in quarters]
        values = [np.nan if rate.value is None else rate.value for rate in rates]
        axes.errorbar(range(len(rates)), values, ends_from(rates), fmt="o", color=LIGHT["blue"], capsize=3)
        axes.set_xticks(range(len(rates)), [f"{low:.1f} to {high:.1f}" for low, high, _ in quarters])
        axes.axhline(0.5, color=LIGHT["muted"], linestyle=":", linewidth=1.2)
        axes.set_xlabel("distance of the prompt")
        axes.set_ylabel("pairs the other way round")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)

    return render(draw, (6.0, 3.6), "Errors against distance")
