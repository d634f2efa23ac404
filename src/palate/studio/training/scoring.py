"""Score responses with reward models, in a process of its own: for what to label next, and for accuracy by labeler.

``scores.jsonl`` holds a line for each response and model: the prompt's id, a hash of the text, the model's place in the
recipe, the raw score of each of its heads (differences of which are log-odds), and of the normalised ones the mean and
the spread. Of a model of several objectives the heads of the first one are asked.

Left out: sharing a trunk between the models of an ensemble.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from palate import disk
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.feedback.tasks.proposing import key_of
from palate.objectives.aggregation import ensemble_mean, spread
from palate.recipe import load_recipe
from palate.records import Candidates
from palate.rewards.heads import of_order
from palate.rewards.learned import LearnedReward
from palate.run.directory import Run
from palate.studio.training.outcomes import SCORES
from palate.studio.training.recipebook import ScoreRecipe

PROMPTS_PER_STEP = 16


def main(arguments: Sequence[str]) -> None:
    """``RECIPE --out DIRECTORY [--resume]``."""
    recipe, directory = load_recipe(ScoreRecipe, arguments[0]), Path(arguments[2])
    run = Run.open(directory, recipe, resume="--resume" in arguments)
    if not run.finished:
        score(recipe, run)


def score(recipe: ScoreRecipe, run: Run) -> None:
    """Write ``scores.jsonl``; a step is some prompts for one model."""
    items = [
        item
        for _, item in iterate(Path(recipe.data), Candidates, rejections=Rejections(), strict=True)
        if isinstance(item, Candidates)
    ]
    parts = [items[start : start + PROMPTS_PER_STEP] for start in range(0, len(items), PROMPTS_PER_STEP)]
    plan = [(place, part) for place in range(len(recipe.models)) for part in parts]
    reward: LearnedReward | None = None
    for step in run.steps(len(plan), every=50, keep=1, state={}):
        place, part = plan[step]
        if reward is None or reward.loaded.name != recipe.models[place]:
            reward = LearnedReward(recipe.models[place], precision=recipe.precision)
        begun = time.perf_counter()
        disk.append_text(run.directory / SCORES, "".join(map(_line, _scores(reward, place, part))))
        run.log(step, {"time/step_s": time.perf_counter() - begun})
    run.finish({"prompts": len(items), "responses": sum(len(item.responses) for item in items)})


def _scores(reward: LearnedReward, place: int, items: Sequence[Candidates]) -> list[dict[str, object]]:
    prompts = [item.prompt for item in items for _ in item.responses]
    texts = [response.text for item in items for response in item.responses]
    asked = of_order(reward.heads)
    units = [reward.heads[head].normalization for head in asked]
    scores = reward.by_head(prompts, texts)[:, asked]
    keys = (key_of(prompt.id, text) for prompt, text in zip(prompts, texts, strict=True))
    return [
        {
            "prompt": key[0],
            "response": key[1],
            "model": place,
            "raw": [value * unit.scale + unit.mean for value, unit in zip(by_head, units, strict=True)],
            "score": mean,
            "spread": apart,
        }
        for key, by_head, mean, apart in zip(
            keys, scores.tolist(), ensemble_mean(scores).tolist(), spread(scores).tolist(), strict=True
        )
    ]


def _line(row: dict[str, object]) -> str:
    return disk.json_text(row) + "\n"
