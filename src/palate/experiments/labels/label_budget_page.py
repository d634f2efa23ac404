"""`palate choose`: the curves of every seed, kept one by one, and the page that they give.

    features.safetensors    of every response, computed once
    curves/seed-0.json      what each strategy reached
    report.html, .json      written anew after every seed

What is there under the same data, model and settings is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from palate import disk
from palate.evals import plots
from palate.evals.page import read_object
from palate.evals.plots import Line
from palate.evals.report import Report
from palate.experiments.labels.judgement_table import Judgements, collect
from palate.experiments.labels.label_budget import Curve, HeldOut, area_gained, curves, labels_needed, named
from palate.experiments.labels.selection import CONTROLS, MEMBERS, RIDGE, STRATEGIES
from palate.intervals import Estimate, ratio_estimate
from palate.recipe import RewardRecipe
from palate.run.trackers import duration

ABOUT = {
    "random": "by lot",
    "uncertain": f"where {MEMBERS} heads contradict each other most",
    "entropy": "where one reward model is least sure",
    "diverse": "least like what was judged before; no model is asked",
    "one by one": "contradictions, each given those chosen before it",
    "both": "the most diverse of the most contradictory",
    "certain": "control: where the heads agree most",
    "shuffled": "control: contradictions of other items",
    "oracle": "control: knows every label, held-out ones too",
}


def choose(recipe: RewardRecipe, out: Path, *, seeds: int, held_out: HeldOut, most: int) -> dict[str, list[Curve]]:
    """Measure every strategy on a recipe's judgements and write the report.

    Args:
        seeds: the recipe's, and those after it.
        held_out: whole prompts, or items.
        most: labels at the end.

    Raises:
        DataError: too little to choose from.
    """
    judgements = collect(recipe, out)
    key = _key(judgements, held_out, most)
    (out / "curves").mkdir(parents=True, exist_ok=True)
    found: list[Curve] = []
    for number in range(seeds):
        seed, began = recipe.seed + number, time.monotonic()
        path = out / "curves" / f"seed-{seed}.json"
        kept = read_object(path)
        if kept.get("key") == key:
            found += [Curve(**curve) for curve in kept["curves"]]
            continue
        fresh = curves(judgements, seed, held_out=held_out, most=most)
        disk.write_text(path, disk.json_text({"key": key, "curves": [asdict(curve) for curve in fresh]}))
        found += [Curve(**curve) for curve in json.loads(path.read_text(encoding="utf-8"))["curves"]]
        describe(found, judgements, recipe, held_out=held_out).write(out)
        left = (seeds - number - 1) * (time.monotonic() - began)
        print(f"seed {seed}: done" + (f", about {duration(left)} left" if left else ""), flush=True)
    describe(found, judgements, recipe, held_out=held_out).write(out)
    return named(found)


def describe(found: Sequence[Curve], judgements: Judgements, recipe: RewardRecipe, *, held_out: HeldOut) -> Report:
    """The page."""
    by = named(found)
    random, num_items = by["random"], len(np.unique(judgements.item))
    report = Report(
        "What to label next", f"{recipe.data.path}, {recipe.model}, seeds {', '.join(str(c.seed) for c in random)}"
    )
    report.data("seeds", [curve.seed for curve in random])
    report.data("held_out", held_out)
    report.data("labels", list(random[0].labels))
    report.data("accuracy", {name: _mean([curve.accuracy for curve in each]) for name, each in by.items()})
    for key, label, values in (
        ("everything", "With all labels", [curve.everything for curve in random]),
        ("random_end", f"Random, {random[0].labels[-1]} labels", [curve.accuracy[-1] for curve in random]),
        ("longer", "The longer response", [curve.longer for curve in random]),
    ):
        mean = ratio_estimate(values, np.ones(len(values)), seed=0)
        report.number(key, mean.value, low=mean.low, high=mean.high, label=label, note="accuracy on what is held out")
    gained = {name: area_gained(each, random) for name, each in by.items() if name != "random"}
    needed = {name: labels_needed(each, random) for name, each in by.items() if name != "random"}
    report.data("area_gained", {name: asdict(estimate) for name, estimate in gained.items()})
    report.data("labels_needed", {name: asdict(estimate) for name, estimate in needed.items()})
    report.text("", conclusion(gained))
    for title, shown in (("Accuracy against labels", STRATEGIES), ("The controls", {"random": 0, **CONTROLS})):
        report.figure(
            title,
            plots.paths(
                [line_of(name, by[name], place) for place, name in enumerate(shown) if name in by],
                x_label="labels",
                y_label="accuracy on what is held out",
                level=(float(np.mean([curve.everything for curve in random])), "with all labels"),
                percent=True,
                doublings=True,
            ),
            f"Means over {len(random)} seeds. Held out: a quarter of the {held_out}; {num_items:,} items in all.",
        )
    report.table(
        "Beside random",
        ["strategy", "what it asks", "mean accuracy gained", "labels it needs"],
        [[name, ABOUT.get(name, ""), _signed(gained[name]), _share(needed[name])] for name in gained],
        "Gained: accuracy minus random's, averaged over the logarithm of labels, paired by seed, in points. Needed: "
        "the share of random's labels that do for the accuracy random ends with. Intervals are Student's over seeds, "
        f"95%, each alone; with {len(gained)} rows one in twenty lies wrong by chance. All seeds share the same "
        "judgements: they say how much hangs on what was held out and drawn, not how other people would judge.",
    )
    if judgements.notes:
        report.text("Not used of the data", "\n\n".join(judgements.notes))
    return report


def conclusion(gained: Mapping[str, Estimate]) -> str:
    """What is better or worse than random beyond its interval; controls are left to the table."""
    tried = {name: estimate for name, estimate in gained.items() if name not in CONTROLS}
    better = [name for name, estimate in tried.items() if estimate.low is not None and estimate.low > 0]
    worse = [name for name, estimate in tried.items() if estimate.high is not None and estimate.high < 0]
    said = [
        f"Better than random: {', '.join(better)}." if better else "Nothing here is shown to be better than random.",
        f"Worse than random: {', '.join(worse)}." if worse else "",
    ]
    return " ".join(filter(None, said))


def line_of(name: str, found: Sequence[Curve], colour: int) -> Line:
    """A strategy's mean; single seeds would hide it."""
    mean = _mean([curve.accuracy for curve in found])
    return Line(label=name, runs=[], mean=list(zip(found[0].labels, mean, strict=True)), colour=colour)


def _mean(values: Sequence[Sequence[float]]) -> list[float]:
    mean: list[float] = np.mean(values, axis=0).tolist()
    return mean


def _key(judgements: Judgements, held_out: HeldOut, most: int) -> str:
    """Of everything that the curves depend on but the seed."""
    digest = hashlib.blake2b(repr((held_out, most, MEMBERS, RIDGE, *STRATEGIES, *CONTROLS)).encode(), digest_size=16)
    for part in (judgements.features, judgements.first, judgements.second, judgements.outcome, judgements.group):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _signed(estimate: Estimate) -> str:
    """In points."""
    if estimate.value is None:
        return "undefined"
    interval = (
        ""
        if estimate.low is None or estimate.high is None
        else (f" ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})")
    )
    return f"{100 * estimate.value:+.1f}{interval}"


def _share(estimate: Estimate) -> str:
    if estimate.value is None:
        return "never reaches it"
    interval = "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.0%} to {estimate.high:.0%})"
    return f"{estimate.value:.0%}{interval}"
