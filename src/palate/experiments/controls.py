"""An agent that learns from comparisons, beside the two things without which its return says little, over seeds.

    learned          the recipe as it is
    true-reward      the environment's own reward in the place of what was learned: the upper control
    random-labels    a teacher that answers by lot: the lower control

    NAME/seed-0/            a run of the agent's stage each
    report.html, .json      learning curves of all, each seed and the mean; written anew after every seed

What is finished is not run again; killed in the middle, or while people are asked, the same command goes on, with the
same bits.

Run it: `palate agent recipes/pendulum.toml --seeds 5`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate.evals import plots
from palate.evals.page import read_object
from palate.evals.plots import Line
from palate.evals.report import Report
from palate.intervals import Estimate, ratio_estimate
from palate.recipe import AgentRecipe
from palate.run.directory import Run
from palate.run.trackers import duration
from palate.stages.agent.agent import train

LEARNED, TRUE, RANDOM = "learned", "true-reward", "random-labels"
ABOUT = {
    LEARNED: "comparisons by the teacher",
    TRUE: "the environment's own reward",
    RANDOM: "comparisons answered by lot",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one run.

    Attributes:
        figures: of its `report.json`.
        curve: (steps in the environments, return) of each evaluation.
    """

    seed: int
    figures: Mapping[str, Any]
    curve: Sequence[tuple[float, float]]

    @classmethod
    def read(cls, directory: Path, seed: int) -> Outcome:
        """From a finished run's directory."""
        lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        curve = [(row["agent/steps"], row["agent/return"]) for row in rows if "agent/return" in row]
        return cls(seed=seed, figures=read_object(directory / "report.json"), curve=curve)


def variations(recipe: AgentRecipe, *, controls: bool) -> dict[str, AgentRecipe]:
    """The recipe under the name of what it is, then its controls if they are asked for."""
    own = TRUE if recipe.reward == "environment" else RANDOM if recipe.labels.teacher == "random" else LEARNED
    found = {own: recipe}
    if controls:
        by_lot = recipe.labels.model_copy(update={"teacher": "random"})
        found.setdefault(TRUE, recipe.model_copy(update={"reward": "environment"}))
        found.setdefault(RANDOM, recipe.model_copy(update={"reward": "comparisons", "labels": by_lot}))
    return found


def run_agents(recipe: AgentRecipe, out: Path, *, seeds: int, controls: bool) -> dict[str, list[Outcome]]:
    """Every run that is not there yet, and the report.

    Args:
        recipe: its seed is that of the first run; the others have those after it.
        out: directory of everything.
        seeds: runs of each.
        controls: also with the true reward, and with random labels.

    Raises:
        PalateError: a run cannot go on; what is finished stays, and so do its checkpoints.
    """
    kinds = variations(recipe, controls=controls)
    found: dict[str, list[Outcome]] = {name: [] for name in kinds}
    took: list[float] = []
    for number in range(seeds):
        seed = recipe.seed + number
        for place, (name, kind) in enumerate(kinds.items()):
            directory = out / name / f"seed-{seed}"
            run = open_run(directory, kind.model_copy(update={"seed": seed}))
            if not run.finished:
                done, whole = number * len(kinds) + place, seeds * len(kinds)
                left = f", about {duration(sum(took) / len(took) * (whole - done))} left" if took else ""
                run.say(f"== {name}, seed {seed}: run {done + 1} of {whole}{left}")
                began = time.monotonic()
                train(kind.model_copy(update={"seed": seed}), run)
                took.append(time.monotonic() - began)
            found[name].append(Outcome.read(directory, seed))
        write_report(out, recipe, found)
    return found


def open_run(directory: Path, recipe: AgentRecipe) -> Run:
    """A new run, or one that goes on."""
    begun = (directory / "metrics.jsonl").exists() or any((directory / "checkpoints").glob("step-*"))
    return Run.open(directory, recipe, resume=begun)


# The report.


def write_report(out: Path, recipe: AgentRecipe, found: Mapping[str, Sequence[Outcome]]) -> Report:
    """Returns of all, their learning curves, and how well the teacher was understood."""
    own = next(iter(found.values()))
    seeds = [outcome.seed for outcome in own]
    by = "the environment's reward" if recipe.reward == "environment" else f'teacher "{recipe.labels.teacher}"'
    report = Report(f"{recipe.environment}: {by}", f"seeds {', '.join(map(str, seeds))}")
    for name, outcomes in found.items():
        mean = over_seeds(outcomes, "return")
        key = f"return_{name.replace('-', '_')}"
        report.number(key, mean.value, low=mean.low, high=mean.high, label=f"Return: {name}", note=ABOUT[name])
        report.data(f"{key}_by_seed", {str(outcome.seed): outcome.figures["return"] for outcome in outcomes})
    if recipe.reward == "comparisons":
        most = max(outcome.figures["comparisons"] for outcome in own)
        report.number("comparisons", most, note=f"asked in a run; the budget is {recipe.labels.budget}")
    report.figure(
        "Learning curves",
        plots.paths(
            [line_of(name, outcomes, colour) for colour, (name, outcomes) in enumerate(found.items())],
            x_label="steps in the environments",
            y_label="return of an episode",
        ),
        f"The environment's own reward, mean over {recipe.evaluation_episodes} episodes in which the policy does what "
        "is likeliest. Thin: each seed. Strong: their mean.",
    )
    report.table(
        "Every run",
        ["run", "seed", "return", "interval", "comparisons", "ties", "skipped", "seconds"],
        [_row(name, outcome) for name, outcomes in found.items() for outcome in outcomes],
        f"Return over {recipe.final_episodes} episodes of other beginnings, its interval by episode. What the runs "
        "themselves say, with clips to watch, is in report.html of each.",
    )
    add_agreement(report, found)
    report.write(out)
    return report


def over_seeds(outcomes: Sequence[Outcome], name: str) -> Estimate:
    """Mean of a figure over seeds with its interval by seed; of few seeds Student's."""
    values = [outcome.figures[name] for outcome in outcomes if outcome.figures.get(name) is not None]
    return ratio_estimate(values, np.ones(len(values)), seed=0)


def line_of(name: str, outcomes: Sequence[Outcome], colour: int) -> Line:
    """One condition in the picture of learning curves."""
    places = [x for x, _ in outcomes[0].curve]
    mean = np.mean([[y for _, y in outcome.curve] for outcome in outcomes], axis=0)
    return Line(
        label=name,
        runs=[outcome.curve for outcome in outcomes],
        mean=list(zip(places, mean.tolist(), strict=True)),
        colour=colour,
    )


def add_agreement(report: Report, found: Mapping[str, Sequence[Outcome]]) -> None:
    """Of the runs that learn from comparisons."""
    rows = [
        [
            name,
            outcome.seed,
            _interval(outcome.figures, "agreement"),
            outcome.figures.get("agreement_kappa"),
            _interval(outcome.figures, "ordered_right"),
        ]
        for name, outcomes in found.items()
        for outcome in outcomes
        if "comparisons" in outcome.figures
    ]
    if rows:
        report.table(
            "Reward networks and teacher",
            ["run", "seed", "agree", "Cohen's kappa", "order as the true reward"],
            rows,
            "How often the networks had foretold an answer before they learned from it; and how often they order pairs "
            "of recent clips, drawn by lot in the end, as the environment's own reward does. Intervals by pair.",
        )


def _interval(figures: Mapping[str, Any], name: str) -> str:
    return str(Estimate(*(figures.get(f"{name}{end}") for end in ("", "_low", "_high"))))


def _row(name: str, outcome: Outcome) -> list[object]:
    figures = outcome.figures
    low, high = figures.get("return_low"), figures.get("return_high")
    interval = "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
    counts = [figures.get(key, 0) for key in ("comparisons", "ties", "skipped")]
    return [name, outcome.seed, f"{figures['return']:.1f}", interval, *counts, round(figures["seconds"])]
