"""`palate labelers`: what every seed foretold, kept, and the page that it gives.

    features.safetensors     of every response, computed once
    foretold/seed-0.json     of every ordered pair, whether it was foretold
    report.html, .json       written anew after every seed

Beside it a control: the same judgements with their labelers' names dealt out anew. Nobody is a stranger then, and the
difference between labelers that a reward learned from and others has to vanish.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from palate import disk
from palate.errors import DataError
from palate.evals import plots
from palate.evals.page import read_object
from palate.evals.report import Report
from palate.experiments.labels.judgement_table import Judgements, collect
from palate.experiments.labels.label_budget import HeldOut
from palate.experiments.labels.selection import RIDGE
from palate.experiments.labels.strangers import Told, by_labeler, foretell, is_right, others_agree
from palate.intervals import Estimate
from palate.randomness import permutation
from palate.recipe import RewardRecipe
from palate.run.trackers import duration


def labelers(recipe: RewardRecipe, out: Path, *, folds: int, seeds: int, held_out: HeldOut) -> Report:
    """Measure a recipe's judgements and write the report.

    Args:
        seeds: the recipe's, and those after it.
        held_out: whole prompts, or items.

    Raises:
        DataError: judgements that nobody signed, or too few labelers.
    """
    judgements = collect(recipe, out)
    if "" in judgements.labelers:
        raise DataError("some judgements name no labeler: name the column in data.fields (labeler), or leave them out")
    of_data = _key(judgements, held_out, folds)
    (out / "foretold").mkdir(parents=True, exist_ok=True)
    found: list[tuple[Told, Told]] = []
    for number in range(seeds):
        seed, began = recipe.seed + number, time.monotonic()
        path = out / "foretold" / f"seed-{seed}.json"
        key = of_data if number else f"{of_data}, with skills and votes"
        if read_object(path).get("key") != key:
            mixed = replace(
                judgements,
                labeler=judgements.labeler[permutation(len(judgements.labeler), seed, "labelers", "control")],
            )
            how: dict[str, Any] = {"folds": folds, "held_out": held_out}
            plain: dict[str, Any] = {"methods": ["plain"], "votes": False}
            told = foretell(judgements, seed, **how, **(plain if number else {}))
            control = foretell(mixed, seed, **how, **plain)
            disk.write_text(path, disk.json_text({"key": key, "told": _lists(told), "control": _lists(control)}))
            left = (seeds - number - 1) * (time.monotonic() - began)
            print(f"seed {seed}: done" + (f", about {duration(left)} left" if left else ""), flush=True)
        kept = json.loads(path.read_text(encoding="utf-8"))
        found.append((_arrays(kept["told"]), _arrays(kept["control"])))
        report = describe(found, judgements, recipe, folds=folds, held_out=held_out)
        report.write(out)
    return report


def describe(
    found: Sequence[tuple[Told, Told]], judgements: Judgements, recipe: RewardRecipe, *, folds: int, held_out: HeldOut
) -> Report:
    """The page."""
    told, controls = [each for each, _ in found], [control for _, control in found]
    seen, unseen = ([getattr(each, side)["plain"] for each in told] for side in ("seen", "unseen"))
    report = Report(
        "Whom the labels speak for", f"{recipe.data.path}, {recipe.model}, {len(told)} seeds, {folds} folds of labelers"
    )
    figures = {
        "labelers it learned from": by_labeler(told, seen),
        "labelers it never met": by_labeler(told, unseen),
        "another labeler": others_agree(judgements),
        "the longer response": by_labeler(told[:1], [longer(judgements, told[0])]),
    }
    difference = by_labeler(told, seen, unseen)
    control = by_labeler(controls, [c.seen["plain"] for c in controls], [c.unseen["plain"] for c in controls])
    for name, estimate in figures.items():
        report.number(name.replace(" ", "_"), estimate.value, low=estimate.low, high=estimate.high, label=name)
    report.number("difference", difference.value, low=difference.low, high=difference.high, label="learned from - not")
    report.number("control", control.value, low=control.low, high=control.high, label="the same, names dealt out anew")
    report.figure(
        "Labelers it learned from, and strangers",
        plots.bars_with_intervals(list(figures), list(figures.values()), unit="preferences foretold"),
        f"{len(told[0].pair):,} preferences of {len(judgements.labelers)} labelers, each foretold by rewards that have "
        f"not seen its {'prompt' if held_out == 'prompts' else 'item'}; the same ones on both sides. Difference: "
        f"{_points(difference)} points; with the labelers' names dealt out anew: {_points(control)}. 95% intervals, by "
        "labeler. The third bar is how often two labelers agree who both preferred one of two responses.",
    )
    first, rows, data = told[:1], [], {}
    for method in first[0].unseen:
        theirs = [[getattr(first[0], side)[method]] for side in ("seen", "unseen")]
        gained = by_labeler(first, theirs[1], unseen[:1])
        rows.append([method, *(str(by_labeler(first, values)) for values in theirs), _points(gained)])
        data[method] = {"unseen": asdict(by_labeler(first, theirs[1])), "gained": asdict(gained)}
    report.data("methods", data)
    report.table(
        "What a reward learns from",
        ["learned from", "labelers it learned from", "labelers it never met", "gained on these, points"],
        rows,
        "plain: every judgement. weighted: by skill, estimated from what is learned from. majority: one verdict of "
        "each item. Gained: over plain, paired by labeler. With the first seed, since skills take the longest.",
    )
    rows, data = [], {}
    for method, values in first[0].votes.items():
        gained = by_labeler(first, [values], [first[0].votes["majority"]])
        rows.append([method, str(by_labeler(first, [values])), _points(gained)])
        data[method] = {"right": asdict(by_labeler(first, [values])), "gained": asdict(gained)}
    report.data("votes", data)
    report.table(
        "Without any reward: from the others' votes on the same item",
        ["verdict", "labelers who did not vote", "gained over the majority, points"],
        rows,
        "Votes of the other folds' labelers on the same responses; an undecided verdict is half right. Bradley-Terry "
        "also uses what was said of either response elsewhere.",
    )
    if judgements.notes:
        report.text("Not used of the data", "\n\n".join(judgements.notes))
    return report


def longer(judgements: Judgements, told: Told) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[P] whether the longer response was the preferred one."""
    words = judgements.words[judgements.first[told.pair]] - judgements.words[judgements.second[told.pair]]
    return is_right(words, judgements.outcome[told.pair])


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    interval = (
        ""
        if estimate.low is None or estimate.high is None
        else f" ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    )
    return f"{100 * estimate.value:+.1f}{interval}"


def _lists(told: Told) -> dict[str, Any]:
    sides = {
        side: {name: v.tolist() for name, v in getattr(told, side).items()} for side in ("seen", "unseen", "votes")
    }
    return {"pair": told.pair.tolist(), "labeler": told.labeler.tolist(), **sides}


def _arrays(kept: dict[str, Any]) -> Told:
    sides = {
        side: {name: np.array(values, dtype=np.float64) for name, values in kept[side].items()}
        for side in ("seen", "unseen", "votes")
    }
    return Told(pair=np.array(kept["pair"]), labeler=np.array(kept["labeler"]), **sides)


def _key(judgements: Judgements, held_out: HeldOut, folds: int) -> str:
    """Of everything that is foretold from but the seed."""
    digest = hashlib.blake2b(repr((held_out, folds, RIDGE, judgements.labelers)).encode(), digest_size=16)
    for part in (judgements.features, judgements.first, judgements.second, judgements.outcome, judgements.labeler):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
