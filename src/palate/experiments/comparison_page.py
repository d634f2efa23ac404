"""The page of a comparison: who is best at equal KL and at equal cost, every path in pictures, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate.evals import plots
from palate.evals.plots import Line
from palate.evals.report import Report
from palate.experiments.methods import Method, differing_keys
from palate.experiments.paths import (
    Floats,
    OverSeeds,
    between,
    crossing,
    farthest_common,
    over_seeds,
    paired_difference,
)
from palate.experiments.tracks import Entry, Track
from palate.intervals import Estimate
from palate.recipe import CompareRecipe

KL = "KL to the baseline (nats per response)"
D = "d, the root of the KL to the baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """All methods at one place of their paths, the best first; those that do not get there are last.

    Attributes:
        axis: attribute of `Track` that says where a stop is.
        target: where they are compared.
        rows: name, and what its runs have there.
    """

    axis: str
    target: float
    rows: Sequence[tuple[str, dict[str, OverSeeds]]]


def compared_at(entries: Sequence[Entry], axis: str, target: float | None, *, seed: int) -> Place | None:
    """Every method at one place; absent, the farthest that every run comes by.

    Methods of which the axis is not known are left out: best of n costs nothing before it is used.
    """
    known = [entry for entry in entries if entry.tracks and all(t.get(axis) is not None for t in entry.tracks)]
    if target is None:
        target = farthest_common([_axis(track, axis) for entry in known if entry.trains for track in entry.tracks])
    if target is None:
        return None
    rows = [(entry.name, _there(entry, axis, target, seed)) for entry in known]
    return Place(axis=axis, target=target, rows=sorted(rows, key=_worth, reverse=True))


def _there(entry: Entry, axis: str, target: float, seed: int) -> dict[str, OverSeeds]:
    found = {}
    places = [(track, place) for track in entry.tracks if (place := crossing(_axis(track, axis), target)) is not None]
    # at equal KL the KL is known, and in its own root it is no straight line
    for name in ("won", "judge", "reward", "words", *(() if axis == "d" else ("kl",))):
        values = [between(known, place) for track, place in places if (known := track.get(name)) is not None]
        if values and (over := over_seeds(values, seed=seed, share=name == "won")) is not None:
            found[name] = over
    return found


def _worth(row: tuple[str, dict[str, OverSeeds]]) -> float:
    value = row[1]["won"].estimate.value if "won" in row[1] else None
    return -1.0 if value is None else value


def _axis(track: Track, name: str) -> Floats:
    found = track.get(name)
    assert found is not None, f"asked only where {name} is known"
    return found


def write_report(
    out: Path,
    methods: Sequence[Method],
    entries: Sequence[Entry],
    evaluation: CompareRecipe,
    *,
    at_kl: float | None = None,
    notes: Sequence[str] = (),
    extra: Callable[[Report], None] | None = None,
) -> None:
    """``report.html`` and ``report.json``.

    Args:
        at_kl: compare there; absent, at the largest KL that every run reaches.
        extra: adds parts of its own after the pictures.
    """
    seeds = max((len(entry.tracks) + len(entry.failed) for entry in entries), default=0)
    names = " · ".join(entry.name for entry in entries)
    prompts = next((track.won.shape[1] for entry in entries for track in entry.tracks), 0)
    report = Report("Methods compared", f"{names}; {seeds} seeds, {prompts} held-out prompts")
    seed = evaluation.seed
    equal_kl = compared_at(entries, "d", None if at_kl is None else at_kl**0.5, seed=seed)
    report.number("at_kl", None if equal_kl is None else equal_kl.target**2, label="Compared at a KL of", note=KL)
    _describe_failures(report, entries)
    if equal_kl is None:
        report.text("At equal KL", "There is no KL that every run comes by, or none was measured on the way to it.")
    else:
        _describe_equal_kl(report, equal_kl, seed)
    _draw(report, entries, None if equal_kl is None else equal_kl.target)
    if extra is not None:
        extra(report)
    for axis, title in (("tokens", "At as many tokens"), ("seconds", "After as many seconds")):
        _describe_equal_cost(report, axis, title, compared_at(entries, axis, None, seed=seed))
    _describe_ends(report, entries, seed)
    _describe_differences(report, methods)
    report.data("evaluation", evaluation.model_dump(mode="json"))
    report.data("methods", [_as_data(entry) for entry in entries])
    report.text("How", HOW)
    if notes:
        report.text("Dropped, skipped, assumed", "\n\n".join(notes))
    report.write(out)


HOW = """\
Every policy answers the same held-out prompts with the same random numbers. Each of its responses meets each of the \
baseline's; a tie is half a win. The KL is that of the policy to the baseline on its own responses.

A run's path is what was measured at its start, at some of its steps and at its end. At equal KL it is read where the \
path first comes by that KL, straight between the two stops around it in the root of the KL; at equal cost likewise in \
the cost. Nothing is said beyond a path's end. The KL of best of n stands at its analytic bound, log n - (n - 1) / n; \
beside it an estimate from how likely the chosen responses are. Its figures are expectations over all choices of n out \
of one pool.

Intervals are by prompt, for the seeds that were run; the spread is the standard deviation over seeds. Differences are \
paired: prompt by prompt, the method's mean over seeds minus that of the first. A token computed is one that went \
through all layers of a network, three times where gradients came back through them.

At equal length is the win rate to expect if the responses were as long as the baseline's: a logistic regression of \
winning on the difference in words, read where there is none. Best of n has none: its figures are expectations."""


def _describe_failures(report: Report, entries: Sequence[Entry]) -> None:
    rows = [[entry.name, seed, reason] for entry in entries for seed, reason in entry.failed.items()]
    report.data("failed", [{"method": name, "seed": seed, "reason": reason} for name, seed, reason in rows])
    if rows:
        report.table("Failed", ["method", "seed", "reason"], rows, "The others were compared without them.")


def _describe_equal_kl(report: Report, place: Place, seed: int) -> None:
    header = ["method", "win rate", "spread", "minus the first", "judge", "reward", "words", "seeds there"]
    rows = [_row(place, number, seed) for number in range(len(place.rows))]
    kl = place.target**2
    report.table(
        f"At equal KL: {kl:.3g} nats",
        header,
        [[row[key] for key in header] for row in rows],
        "Sorted by win rate there. In brackets 95% intervals by prompt.",
    )
    report.data("at_equal_kl", [_data_row(place, number, seed) for number in range(len(place.rows))])


def _difference(place: Place, number: int, seed: int) -> Estimate:
    first, this = place.rows[0][1].get("won"), place.rows[number][1].get("won")
    if number == 0 or first is None or this is None:
        return Estimate(None)
    return paired_difference(this.by_prompt, first.by_prompt, seed=seed)


def _row(place: Place, number: int, seed: int) -> dict[str, object]:
    name, found = place.rows[number]
    won, difference = found.get("won"), _difference(place, number, seed)
    row: dict[str, object] = {
        "method": name,
        "win rate": "does not get there" if won is None else str(won.estimate),
        "spread": "" if won is None or won.spread is None else f"{won.spread:.3f}",
        "minus the first": "" if difference.value is None else str(difference),
        "seeds there": 0 if won is None else won.seeds,
    }
    for key in ("judge", "reward", "words"):
        row[key] = f"{found[key].estimate.value:.2f}" if key in found else ""
    return row


def _data_row(place: Place, number: int, seed: int) -> dict[str, object]:
    name, found = place.rows[number]
    figures: dict[str, object] = {"method": name}
    for key, over in found.items():
        named = "win_rate" if key == "won" else key
        figures |= {
            named: over.estimate.value,
            f"{named}_low": over.estimate.low,
            f"{named}_high": over.estimate.high,
            f"{named}_spread": over.spread,
        }
    difference = _difference(place, number, seed)
    figures |= {"minus_first": difference.value, "minus_first_low": difference.low}
    return figures | {"minus_first_high": difference.high, "seeds": found["won"].seeds if "won" in found else 0}


def _describe_equal_cost(report: Report, axis: str, title: str, place: Place | None) -> None:
    rows = [] if place is None else [(name, found) for name, found in place.rows if found]
    report.data(
        f"at_equal_{axis}",
        {
            axis: None if place is None else place.target,
            "methods": [
                {"method": name, "win_rate": found["won"].estimate.value, "kl": found["kl"].estimate.value}
                for name, found in rows
            ],
        },
    )
    if place is None or not rows:
        return
    report.table(
        f"{title}: {place.target:,.0f}",
        ["method", "win rate", "spread", "KL", "seeds there"],
        [
            [
                name,
                str(found["won"].estimate),
                "" if found["won"].spread is None else f"{found['won'].spread:.3f}",
                f"{found['kl'].estimate.value:.2f}",
                found["won"].seeds,
            ]
            for name, found in rows
        ],
        "As far as the run that cost least came.",
    )


def _draw(report: Report, entries: Sequence[Entry], at_d: float | None) -> None:
    """Win rate, reward and judge, each against how far it was bought."""
    at = None if at_d is None else at_d**2
    pictures = (
        ("won", "Win rate against KL", "win rate", (0.5, "no better than the baseline"), True),
        ("reward", "Reward against KL", "reward", None, False),
        ("judge", "The judge's score against KL", "judge's score", None, False),
    )
    for name, title, label, level, percent in pictures:
        if lines := lines_of(entries, name):
            svg = plots.paths(lines, x_label=KL, y_label=label, level=level, at=at, percent=percent)
            report.figure(title, svg, "Thin: every seed. Strong: their mean. Dashed: best of n, for all n of the pool.")


def lines_of(entries: Sequence[Entry], name: str, *, against: Callable[[Track], Floats] | None = None) -> list[Line]:
    """A line for every method of which this is known; of best of n against the analytic KL."""
    x_of = against or (lambda track: track.d**2)
    lines = []
    for number, entry in enumerate(entries):
        known = [(x_of(track), values.mean(1)) for track in entry.tracks if (values := track.get(name)) is not None]
        if not known:
            continue
        runs = [list(zip(x.tolist(), y.tolist(), strict=True)) for x, y in known]
        shared = [run for run in runs if len(run) == len(runs[0])]
        mean: list[tuple[float, float]] = [(float(x), float(y)) for x, y in np.mean(shared, axis=0)]
        lines.append(Line(label=entry.name, runs=runs, mean=mean, colour=number, dashed=not entry.trains))
    return lines


def _describe_ends(report: Report, entries: Sequence[Entry], seed: int) -> None:
    header = ["method", "seed", "win rate", "at equal length", "KL", "judge", "reward", "words", "cut off", "tokens"]
    header.append("seconds")
    rows = []
    for entry in entries:
        for track in entry.tracks:
            won = over_seeds([track.won[-1]], seed=seed, share=True)
            assert won is not None
            rows.append(
                [
                    entry.name if entry.trains else f"{entry.name}, n = {track.stops[-1]}",
                    track.seed,
                    str(won.estimate),
                    str(track.at_equal_length[-1]) if track.at_equal_length else "",
                    _kl_of(entry, track),
                    f"{track.judge[-1].mean():.2f}",
                    "" if track.reward is None else f"{track.reward[-1].mean():.2f}",
                    f"{track.words[-1].mean():.1f}",
                    "" if track.truncated is None else f"{track.truncated[-1].mean():.1%}",
                    "" if track.tokens is None else f"{track.tokens[-1]:,.0f}",
                    "" if track.seconds is None else f"{track.seconds[-1]:,.1f}",
                ]
            )
    report.table("Where every run ended", header, rows, "Tokens computed and seconds until then, without measuring.")


def _kl_of(entry: Entry, track: Track) -> str:
    if entry.trains:
        return f"{track.kl[-1].mean():.2f}"
    return f"at most {track.d[-1] ** 2:.2f}, about {track.kl[-1].mean():.2f}"


def _describe_differences(report: Report, methods: Sequence[Method]) -> None:
    rows = differing_keys(methods)
    report.data(
        "differences", [{"key": key, **dict(zip(_names(methods), values, strict=True))} for key, values in rows]
    )
    if rows:
        report.table(
            "What differs between the recipes",
            ["key", *_names(methods)],
            [[key, *values] for key, values in rows],
            "Keys that several of them know, and those that one of them sets.",
        )


def _names(methods: Sequence[Method]) -> list[str]:
    return [method.name for method in methods]


def _as_data(entry: Entry) -> dict[str, Any]:
    """Means over prompts at every stop."""
    runs = []
    for track in entry.tracks:
        run: dict[str, Any] = {"seed": track.seed, "stops": list(track.stops), "kl": track.kl.mean(1).tolist()}
        run["kl_bound" if not entry.trains else "d"] = (track.d**2 if not entry.trains else track.d).tolist()
        for name, key in (("won", "win_rate"), ("judge", "judge"), ("reward", "reward"), ("words", "words")):
            values = track.get(name)
            run[key] = None if values is None else values.mean(1).tolist()
        run["win_rate_length_controlled"] = [estimate.value for estimate in track.at_equal_length]
        for name in ("tokens", "seconds"):
            values = track.get(name)
            run[name] = None if values is None else values.tolist()
        runs.append(run)
    return {"name": entry.name, "trains": entry.trains, "runs": runs, "failed": entry.failed}
