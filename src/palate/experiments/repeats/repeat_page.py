"""The page of a repeat: every figure over seeds beside its interval within one run, and where its spread comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from palate.evals import plots
from palate.evals.page import format_number
from palate.evals.report import Report
from palate.evals.theme import LIGHT, SERIES
from palate.experiments.repeats.draws import ABOUT, Draw, Part
from palate.experiments.repeats.in_words import conclusion, in_percent
from palate.experiments.repeats.spread import deviation_estimate
from palate.experiments.repeats.told import Figure, as_json, without_copies
from palate.intervals import Estimate
from palate.run.metrics import HEADLINES

SHOWN = 6
"""Figures that stand in the pictures."""

HOW = """\
Spread is the standard deviation over seeds, of runs in which every source of randomness was drawn by one seed. Within \
a run is the standard error that the report's own interval stands for: what another sample of prompts or items would \
change. A difference between two runs has to be larger than both make it.

The part of a source: each run is done again with that source drawn anew and all else as it was; half the mean squared \
change is the variance that the source has, alone and together with others (Jansen 1999). Where sources do not work \
together the parts add up to the square of the spread, up to chance. What no recipe has a seed for, and files that \
{seed} names, stay as they were.

Intervals of means are by seed (Student's of few), those of standard deviations by chi-square, those of shares from \
all that the sources' variances may be, as if none worked with another. A source is said to have the largest part if \
it has that in 97.5% of these."""


def write_report(
    out: Path,
    parts: Sequence[Part],
    figures: Sequence[Figure],
    *,
    missing: int,
    failed: Mapping[Draw, str],
    idle: Sequence[str],
    apart: Sequence[str],
) -> Report:
    """``report.html`` and ``report.json``.

    Args:
        missing: draws that are still to be run.
    """
    seeds = len(figures[0].by_seed) if figures else 0
    subtitle = f"{seeds} seeds" + (f"; drawn apart: {', '.join(apart)}" if apart else "")
    report = Report(f"Repeated: {', '.join(part.name for part in parts)}", subtitle)
    varying, copies = without_copies([figure for figure in figures if figure.varies])
    chosen = headlines(varying)
    for figure in chosen[:4]:
        mean = figure.mean
        note = f"spread over seeds {format_number(figure.spread.value)}, within a run {_number(figure.within)}"
        report.number(_key(figure.name), mean.value, low=mean.low, high=mean.high, label=figure.name, note=note)
    if missing:
        report.text("Not finished", f"{missing} draws are still to be run; the same command goes on.")
    if chosen and seeds > 1:
        report.text("What can be told", "\n\n".join(conclusion(figure) for figure in chosen[: SHOWN // 2]))
        report.figure(
            "Seed by seed",
            by_seed(chosen),
            "Each point a run, with the interval of its own report; the line is their mean, the band one standard "
            "deviation over seeds on either side.",
        )
    decomposed = [figure for figure in chosen if figure.parts]
    for figure in decomposed[: SHOWN // 2]:
        names, estimates = deviations(figure)
        report.figure(
            f"Where the spread comes from: {figure.name}",
            plots.bars_with_intervals(names, estimates, unit="standard deviation", percent=False),
            "Standard deviation of runs that differ in one source of randomness alone, and in all of them; beside it "
            "what other prompts or items would do, where the report has an interval of its own.",
        )
    _add_parts(report, [figure for figure in varying if figure.parts])
    report.table(
        "Every figure",
        ["figure", "mean over seeds", "spread over seeds", "within a run", "spread / within"],
        [_row(figure) for figure in varying],
        f"{len(figures) - len(varying) - len(copies)} figures that are the same in every run are left out"
        + "".join(f"; {name} is {of} in every run" for name, of in copies.items())
        + ".",
    )
    if failed:
        rows = [[str(draw), reason] for draw, reason in failed.items()]
        report.table("Failed", ["draw", "reason"], rows, "The others were counted without them.")
    for source in idle:
        report.text("", f"{source}: drawn anew, it changed no figure of seed 0; its other runs were left out.")
    report.data("figures", [as_json(figure) for figure in figures])
    report.data("failed", [{"draw": str(draw), "reason": reason} for draw, reason in failed.items()])
    report.data("idle", list(idle))
    report.data("apart", list(apart))
    report.text("How", HOW)
    report.write(out)
    return report


def headlines(figures: Sequence[Figure]) -> list[Figure]:
    """The few that a page begins with: those with an interval of their own, then a stage's, then telling metrics."""

    def rank(figure: Figure) -> int:
        if figure.within is not None:
            return 0
        metric = figure.name.partition("last step: ")[2]
        if not metric:
            return 1
        return 2 + (HEADLINES.index(metric) if metric in HEADLINES else len(HEADLINES))

    return sorted(figures, key=rank)[:SHOWN]


def deviations(figure: Figure) -> tuple[list[str], list[Estimate]]:
    """Standard deviations of each source, of all together, and within a run if that is known."""
    names = [name for name in ABOUT if name in figure.parts]
    found = [deviation_estimate(figure.parts[name], len(figure.anew[name])) for name in names]
    inside = {} if figure.within is None else {"within a run": Estimate(figure.within)}
    return [*names, "all together", *inside], [*found, figure.spread, *inside.values()]


def by_seed(figures: Sequence[Figure]) -> str:
    """A small panel for each figure."""
    columns = min(3, len(figures))
    num_rows = -(-len(figures) // columns)

    def draw(canvas: Canvas) -> None:
        for place, figure in enumerate(figures):
            axes = canvas.add_subplot(num_rows, columns, place + 1)
            axes.set_title(figure.name, fontsize=9)
            seeds, estimates = list(figure.by_seed), list(figure.by_seed.values())
            mean, spread = figure.mean.value, figure.spread.value
            if mean is not None and spread is not None:
                axes.axhspan(mean - spread, mean + spread, color=SERIES[0], alpha=0.12, linewidth=0)
                axes.axhline(mean, color=SERIES[0], linewidth=1.4)
            axes.errorbar(
                seeds, figure.values, plots.ends_from(estimates), fmt="o", color=SERIES[0], elinewidth=1.4, capsize=3
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlim(min(seeds) - 0.5, max(seeds) + 0.5)
            axes.tick_params(colors=LIGHT["ink"])
            if place >= len(figures) - columns:
                axes.set_xlabel("seed")

    return plots.render(draw, (3.2 * columns if columns > 1 else 4.8, 2.6 * num_rows), "Seed by seed")


def _add_parts(report: Report, figures: Sequence[Figure]) -> None:
    if not figures:
        return
    names = [name for name in ABOUT if any(name in figure.parts for figure in figures)]
    rows = []
    for figure in figures:
        known = dict(zip(*deviations(figure), strict=True))
        shares = figure.shares
        cells = [f"{known[name]}{_share(shares.get(name))}" if name in known else "" for name in names]
        rows.append([figure.name, *cells, str(figure.spread)])
    report.table(
        "What each source of randomness does",
        ["figure", *names, "all together"],
        rows,
        "Standard deviation with its interval, and the share of the sum of the sources' variances with its own, once "
        "all sources have been drawn. " + "; ".join(f"{name}: {ABOUT[name]}" for name in names),
    )


def _row(figure: Figure) -> list[object]:
    spread, inside = figure.spread.value, figure.within
    ratio = f"{spread / inside:.2f}" if spread is not None and inside else ""
    return [figure.name, str(figure.mean), str(figure.spread), "" if inside is None else f"{inside:.4g}", ratio]


def _number(value: float | None) -> str:
    return "unknown" if value is None else format_number(value)


def _share(share: Estimate | None) -> str:
    return "" if share is None or share.value is None else f" · {in_percent(share)}"


def _key(name: str) -> str:
    """As a key of the JSON file."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)
