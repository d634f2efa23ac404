"""Language models ranked by people's comparisons of their answers, with intervals, beside published scores.

    python benchmarks/models_ranked.py data/llmfao

The folder is that of `palate data get llmfao` (Ustalov 2023, CC-BY 4.0): 8,931 comparisons by 124 labelers of answers
of 59 models to 13 prompts, 39% of them ties; and the models' scores by seven methods of evalica (Apache-2.0), computed
from the same comparisons. Agreement with these says that the fits are alike, not that either is right.

    full      Bradley-Terry with ties, the labelers' skills and position bias (`bradley_terry.py`): labelers are fitted
              on pairs of answers, then one quality to a model, over all prompts
    plain     the same with equal skills and ties, and no bias
    shuffled  full, with the verdicts dealt out to other pairs: a control, nothing should agree with it

Intervals: labelers are drawn with replacement, the labelers' own numbers staying as they are; so they say how much
hangs on who was asked, not on the 13 prompts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from palate.corpus.containers.files import read_rows
from palate.feedback.statistics.aggregate import Comparisons, collect_comparisons
from palate.feedback.statistics.bradley_terry import fit_labelers, fit_qualities
from palate.feedback.statistics.coefficients import kendall_tau_b
from palate.feedback.statistics.marginal import Parameters, Priors
from palate.intervals import Floats
from palate.randomness import permutation, uniforms
from palate.records import Prompt, Ranking, Response

RANKS = {"left": (1, 2), "tie": (1, 1), "right": (2, 1)}
RESAMPLES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Qualities of M models.

    Attributes:
        quality: [M].
        drawn: [R, M] with the labelers drawn again.
    """

    models: tuple[str, ...]
    quality: Floats
    drawn: Floats
    parameters: Parameters

    @property
    def places(self) -> Floats:
        """[R, M] 1 is best."""
        return np.asarray(1 + np.argsort(np.argsort(-self.drawn, axis=1), axis=1), dtype=np.float64)

    def sure_pairs(self) -> float:
        """Of all pairs of models the share whose order nineteen of twenty resamples have alike."""
        first, second = np.triu_indices(len(self.models), k=1)
        ahead = (self.drawn[:, first] > self.drawn[:, second]).mean(0)
        return float(((ahead <= 0.025) | (ahead >= 0.975)).mean())


def read(folder: Path) -> list[Ranking]:
    """A ranking of two models' names by prompt; the left one was shown first."""
    return [
        Ranking(
            prompt=Prompt.from_text(str(row.fields["prompt"])),
            responses=(Response(text=row.fields["left"]), Response(text=row.fields["right"])),
            ranks=RANKS[row.fields["winner"]],
            labeler=str(row.fields["worker"]),
            shown_order=(0, 1),
        )
        for row in read_rows(folder / "crowd-comparisons.csv")
    ]


def over_prompts(table: Comparisons) -> tuple[Comparisons, tuple[str, ...]]:
    """The same verdicts about models instead of their answers to single prompts."""
    models = tuple(sorted({text for _, text in table.responses}))
    number = {name: place for place, name in enumerate(models)}
    of_response = np.array([number[text] for _, text in table.responses])
    return replace(table, responses=tuple(("", name) for name in models), pairs=of_response[table.pairs]), models


def fitted(table: Comparisons, parameters: Parameters) -> Fitted:
    """One quality for each model, and that of every resample."""
    by_model, models = over_prompts(table)
    drawn = []
    for sample in range(RESAMPLES):
        people = (uniforms(len(table.labelers), 0, "labelers", sample) * len(table.labelers)).astype(np.int64)
        times = np.bincount(people, minlength=len(table.labelers)).astype(np.float64)
        drawn.append(fit_qualities(replace(by_model, weight=table.weight * times[table.labeler]), parameters))
    return Fitted(
        models=models, quality=fit_qualities(by_model, parameters), drawn=np.array(drawn), parameters=parameters
    )


def variants(table: Comparisons) -> dict[str, Fitted]:
    """Each under its name."""
    own = Parameters.unpack(fit_labelers(table, Priors()), table)
    even = Parameters(
        np.ones_like(own.skill), np.zeros_like(own.bias), np.full_like(own.tie, _middle(own.tie)), own.spread
    )
    mixed = replace(table, verdict=table.verdict[permutation(len(table), 0, "shuffled")])
    by_lot = Parameters.unpack(fit_labelers(mixed, Priors()), mixed)
    return {"full": fitted(table, own), "plain": fitted(table, even), "shuffled": fitted(mixed, by_lot)}


def main() -> None:
    """Print the ranking, and how it agrees with the published ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with crowd-comparisons.csv and evalica-golden.csv")
    folder = parser.parse_args().folder
    rankings = read(folder)
    table = collect_comparisons(rankings)
    found = variants(table)
    full = found["full"]
    skill = full.parameters.skill / np.exp(np.log(full.parameters.skill).mean())
    bias = float(full.parameters.bias.mean())
    print(f"{len(rankings):,} comparisons, {table.num_superseded} replaced by a later one of the same labeler")
    print(f"skills {np.quantile(skill, 0.05):.2f} to {np.quantile(skill, 0.95):.2f} (5% to 95% of labelers), ", end="")
    print(f"log-odds for the left {bias:+.3f}, tie {_middle(full.parameters.tie):.2f}")
    for name, each in found.items():
        print(f"{name}: {each.sure_pairs():.0%} of the pairs of models are in an order that 95% of resamples share")
    published: dict[str, dict[str, float]] = defaultdict(dict)
    for row in read_rows(folder / "evalica-golden.csv"):
        published[row.fields["algorithm"]][row.fields["item"]] = float(row.fields["score"])
    print("\nagreement with the published scores: Kendall's tau-b with 95% of resamples")
    for method, scores in published.items():
        theirs = np.array([scores[name] for name in full.models])
        print(f"  {method:18s}" + "   ".join(f"{name} {_agreement(each, theirs)}" for name, each in found.items()))
    order = np.argsort(-full.quality)
    low, high = np.quantile(full.places, [0.025, 0.975], axis=0)
    theirs = np.array([published["bradley_terry"][name] for name in full.models])
    place = 1 + np.argsort(np.argsort(-theirs))
    print("\nplace (95%), quality (95%), published place by Bradley-Terry")
    ends = np.quantile(full.drawn, [0.025, 0.975], axis=0)
    for number, model in enumerate(order.tolist(), start=1):
        between = f"{ends[0, model]:+.2f} to {ends[1, model]:+.2f}"
        print(
            f"{number:3d} ({low[model]:.0f} to {high[model]:.0f})  {full.quality[model]:+.2f} ({between})  "
            f"{place[model]:3d}  {full.models[model]}"
        )


def _agreement(each: Fitted, theirs: Floats) -> str:
    tau = kendall_tau_b(each.quality, theirs)
    drawn = [value for sample in each.drawn if (value := kendall_tau_b(sample, theirs)) is not None]
    return f"{tau:+.3f} ({np.quantile(drawn, 0.025):+.3f} to {np.quantile(drawn, 0.975):+.3f})"


def _middle(values: Sequence[float] | Floats) -> float:
    """Geometric mean."""
    return float(np.exp(np.log(np.asarray(values)).mean()))


if __name__ == "__main__":
    main()
