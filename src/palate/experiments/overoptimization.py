"""What becomes of the true reward while a learned one is optimised, and what ensembles, data or a KL penalty change.

    gold       a hidden taste for warm, short and fluent answers, which no training sees (`gold_taste.py`)
    labels     it says which of two answers of the SFT model is better; a quarter of what it says is turned round
    proxies    reward models that learned from those labels, alike but for their seed; one more from a quarter of them
    best of n  by each of these rewards, every n up to a pool's size, without bias
    RL         REINFORCE on one of them, on that with a KL penalty, on the one that saw less, and on ensembles of all
               but that: their mean, the least, the mean minus the spread

Against d, the root of the KL to the SFT model, a proxy goes on rising where gold has long been falling: Gao et al. 2022
(arXiv 2210.10760), whose forms are fitted (`forms.py`). Coste et al. 2023 (arXiv 2310.02743) for ensembles and 25% of
the labels wrong. Everything is run and measured as by `compare.py`.

Run it: `palate overoptimize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from palate.demo.loop import FULL as EVERYDAY
from palate.demo.loop import TINY as SMALL
from palate.demo.loop import Loop, Scale
from palate.evals import plots
from palate.evals.plots import Line
from palate.evals.report import Report
from palate.experiments.compare import Comparison
from palate.experiments.comparison_page import D
from palate.experiments.forms import Fit, fit_with_intervals
from palate.experiments.frontier import evaluation, method
from palate.experiments.methods import Method
from palate.experiments.paths import Floats
from palate.experiments.tracks import Entry
from palate.intervals import Estimate
from palate.randomness import derive_seed, uniforms
from palate.recipe import Taste
from palate.records import Ranking
from palate.simulated.labelers import rank_candidates

WRONG_LABELS = 0.25
FEW_LABELS = 0.25
"""Of the labels, what the proxy that saw less learns from."""
ENSEMBLES = {"mean-of-proxies": "mean", "least-of-proxies": "min", "mean-minus-spread": "mean_minus_std"}
"""What one score is made of those of all proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        scale: of the demonstration's first parts; its ranked prompts are pairs of answers here.
        members: reward models.
        steps: of each run of REINFORCE.
        points: policies measured on the way of each.
        best_of: responses in a pool.
        responses: of each policy to each held-out prompt.
        learning_rate: of REINFORCE, constant.
        gold: the judge of (prompts, responses).
    """

    scale: Scale
    members: int
    steps: int
    points: int
    best_of: int
    responses: int
    learning_rate: float = 6e-4
    gold: str = "palate.experiments.gold_taste:pleasant_and_fluent"


SCALES = {
    "full": Size(scale=replace(EVERYDAY, ranked_prompts=600), members=4, steps=32, points=8, best_of=64, responses=4),
    "tiny": Size(
        scale=SMALL,
        members=2,
        steps=3,
        points=3,
        best_of=4,
        responses=2,
        learning_rate=3e-3,
        gold="palate.simulated.tastes:sunny_and_to_the_point",  # a random model says nothing that could be read
    ),
}


class Labelled(Loop):
    """SFT model and proxies of one seed."""

    def __init__(self, out: Path, seed: int, size: Size) -> None:
        super().__init__(out, seed, size.scale)
        self.size = size
        self.taste = Taste(function=size.gold, agreement=1, labelers=1, labels_per_prompt=1)

    def rankings(self) -> None:
        """Pairs of answers of the SFT model, ordered by gold itself, a quarter of them turned round."""
        candidates = self.sample("sft_samples", str(self.out / "sft"), "ranked_prompts.jsonl", num_responses=2)
        right = rank_candidates(candidates, self.taste, seed=self.seed)
        self.write("rankings.jsonl", with_wrong_labels(right, WRONG_LABELS, seed=self.seed))

    def reward(self) -> None:
        """The proxies: each with a head of its own and its own order of the same labels; the last with fewer labels."""
        seeds = [derive_seed(self.seed, "proxy", number) % 2**31 for number in range(self.size.members)]
        for number, seed in enumerate(seeds):
            self.reward_model(f"reward-{number}", seed=seed)
        labels = self.read("rankings.jsonl", Ranking)
        self.write("few_rankings.jsonl", labels[: round(FEW_LABELS * len(labels))])
        self.reward_model("reward-few", "few_rankings.jsonl", seed=seeds[0])


def with_wrong_labels(rankings: Sequence[Ranking], share: float, *, seed: int) -> list[Ranking]:
    """Rankings of which about this share is turned round; which ones depends on seed and prompt alone."""
    found = []
    for ranking in rankings:
        turned = uniforms(1, seed, "wrong label", ranking.prompt.id)[0] < share
        ranks = tuple(max(ranking.ranks) + 1 - rank for rank in ranking.ranks) if turned else ranking.ranks
        found.append(ranking.model_copy(update={"ranks": ranks}))
    return found


def overoptimize(out: Path, *, seeds: int = 1, scale: Size = SCALES["full"]) -> list[Entry]:
    """Run what is not there yet, measure all of it, and write ``report.html`` and ``report.json``."""
    for seed in range(seeds):
        Labelled(out / f"seed-{seed}", seed, scale).prepare_models()
    loop = Labelled(out / "seed-{seed}", 0, scale)
    judged = evaluation(loop, out, responses_per_prompt=scale.responses, points=scale.points, best_of=scale.best_of)
    return Comparison(variations(loop), judged, out, seeds=seeds).run(describe)


def variations(loop: Labelled) -> list[Method]:
    """REINFORCE on every proxy; best of n follows by each of their rewards."""
    proxies = [str(loop.out / f"reward-{number}") for number in range(loop.size.members)]
    settings: dict[str, Any] = loop.rl() | {
        "model": str(loop.out / "sft"),
        "rewards": [{"model": proxies[0]}],
        "steps": loop.size.steps,
        "kl_coef": 0.0,
        "min_entropy": 0.0,
        "truncation_score": None,
        "optimizer": {"learning_rate": loop.size.learning_rate, "schedule": "constant"},
    }
    given: dict[str, dict[str, Any]] = {
        "one-proxy": {},
        "one-proxy-penalty": {"kl_coef": 0.1},
        "few-labels": {"rewards": [{"model": str(loop.out / "reward-few")}]},
    }
    for name, aggregation in ENSEMBLES.items():
        given[name] = {"rewards": [{"ensemble": proxies, "aggregation": aggregation}]}
    return [method("reinforce", loop, settings | changes, name=name) for name, changes in given.items()]


# The report.


def describe(entries: Sequence[Entry], report: Report) -> None:
    """Gold and proxy against d, the fitted forms, and where gold is highest."""
    fits = {entry.name: found for entry in entries if (found := fit_of(entry)) is not None}
    for title, shown in figures(entries).items():
        lines = [
            line
            for number, entry in enumerate(entries)
            if entry in shown and entry.tracks
            for line in gold_and_proxy(entry, fits.get(entry.name), number)
        ]
        if lines:
            report.figure(
                title,
                plots.paths(lines, x_label=D, y_label="gained since the start", level=(0.0, "where it began")),
                "Strong: gold, the truth. Dashed: the reward that was optimised, in units of its own. A star: "
                "where the fitted form is highest, if that was passed.",
            )
    report.table(
        "Where more optimisation does harm",
        ["method", "alpha", "beta", "highest at d", "in nats", "gold there", "passed"],
        [_fit_row(name, found) for name, found in fits.items()],
        "Fitted to gold: d (alpha - beta d) for best of n, d (alpha - beta log d) for RL; 95% intervals by prompt.",
    )
    report.data("fits", {name: _fit_data(found) for name, found in fits.items()})


def figures(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """What stands in one picture, by its title; one proxy stands beside the ensembles as well."""
    trained = [entry for entry in entries if entry.trains]
    return {
        "Best of n: gold and proxy": [entry for entry in entries if not entry.trains],
        "REINFORCE on one proxy: gold and proxy": [entry for entry in trained if entry.name not in ENSEMBLES],
        "REINFORCE on ensembles: gold and proxy": [
            entry for entry in trained if entry.name in ENSEMBLES or entry is trained[0]
        ],
    }


def fit_of(entry: Entry) -> Fit | None:
    """The form of a method's kind, fitted to gold over all its seeds; counted from where each run began."""
    if not entry.tracks:
        return None
    gold = np.concatenate([gained(track.judge) for track in entry.tracks])
    if entry.trains:
        return fit_with_intervals("rl", np.concatenate([track.kl for track in entry.tracks]), gold, seed=0)
    return fit_with_intervals("best of n", np.concatenate([track.d for track in entry.tracks]), gold, seed=0)


def gained(values: Floats) -> Floats:
    """[S, P] minus what it was at the first stop."""
    return values - values[:1]


def gold_and_proxy(entry: Entry, found: Fit | None, number: int) -> list[Line]:
    """Two lines of one colour, and the peak of the first."""

    def line(label: str, values: Sequence[Floats], *, dashed: bool, peak: tuple[float, float] | None = None) -> Line:
        pairs = zip(entry.tracks, values, strict=True)
        runs = [list(zip(track.d.tolist(), gained(of).mean(1).tolist(), strict=True)) for track, of in pairs]
        shared = [run for run in runs if len(run) == len(runs[0])]
        mean = [(float(x), float(y)) for x, y in np.mean(shared, axis=0)]
        return Line(label=label, runs=runs, mean=mean, colour=number, dashed=dashed, peak=peak)

    peak = None
    if found is not None and found.reached and found.peak.value is not None:
        peak = (found.peak.value, float(found.coefficients(found.peak.value)))
    lines = [line(f"{entry.name}: gold", [track.judge for track in entry.tracks], dashed=False, peak=peak)]
    proxies = [track.reward for track in entry.tracks if track.reward is not None]
    if len(proxies) == len(entry.tracks):
        lines.append(line(f"{entry.name}: proxy", proxies, dashed=True))
    return lines


def _fit_row(name: str, found: Fit) -> list[object]:
    peak = found.peak.value
    return [
        name,
        str(found.alpha),
        str(found.beta),
        "nowhere" if peak is None else str(found.peak),
        "" if peak is None else f"{peak**2:.2f}",
        "" if peak is None else f"{float(found.coefficients(peak)):.2f}",
        "yes" if found.reached else "no",
    ]


def _fit_data(found: Fit) -> dict[str, object]:
    named = {"alpha": found.alpha, "beta": found.beta, "peak": found.peak}
    figures: dict[str, object] = {"form": found.coefficients.form, "farthest": found.farthest, "passed": found.reached}
    for key, estimate in named.items():
        figures |= _ends(key, estimate)
    return figures


def _ends(key: str, estimate: Estimate) -> dict[str, object]:
    return {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
