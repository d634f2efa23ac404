"""Win rate against KL for PPO, REINFORCE and DPO, over seeds: a comparison in which each seed has its own people.

Each seed has its own demonstrations, labelers, SFT model, reward model and favourites. PPO and REINFORCE start where
the favourites have been learned, DPO learns from the same rankings and starts from the SFT model, and best of n picks
with the same reward model among its answers. All are compared with that seed's SFT model, on the same held-out prompts,
by the hidden taste. The rest is `compare.py`.

Gao et al. 2022 (arXiv 2210.10760) for the axes. Run it: `palate frontier --seeds 3`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate import disk
from palate.commands import STAGES
from palate.demo.loop import FULL, Loop, Scale
from palate.demo.prompts import demo_prompts
from palate.experiments.compare import Comparison
from palate.experiments.methods import Method
from palate.experiments.tracks import Entry
from palate.recipe import CompareRecipe
from palate.records import Ranking


def frontier(out: Path, *, seeds: int = 3, scale: Scale = FULL) -> list[Entry]:
    """Run what is not there yet, measure all of it, and write ``report.html`` and ``report.json``."""
    held_out = []
    for seed in range(seeds):
        loop = Loop(out / f"seed-{seed}", seed, scale)
        loop.prepare_models()
        loop.favourites()
        held_out.append(loop.holdout("rankings.jsonl", Ranking)["fraction"])
    loop = Loop(out / "seed-{seed}", 0, scale)
    rl = loop.rl()
    preferences = {
        "data": loop.data("rankings.jsonl"),
        "holdout": {"fraction": max(held_out)},
        "optimizer": {"learning_rate": 5e-5},
    }
    methods = [
        method("ppo", loop, rl | {"minibatches": 2, "value_optimizer": {"learning_rate": 2e-4}}),
        method("reinforce", loop, rl),
        method("dpo", loop, preferences | {"model": str(loop.out / "sft")}),
    ]
    return Comparison(methods, evaluation(loop, out), out, seeds=seeds).run()


def method(stage: str, loop: Loop, settings: Mapping[str, Any], *, name: str = "") -> Method:
    """A stage of a demonstration as a method."""
    common = {"frozen_layers": loop.frozen_layers, "precision": loop.precision}
    found = next(each for each in STAGES if each.name == stage)
    return Method(name=name or stage, stage=found, tree=common | dict(settings), source=name or stage)


def evaluation(loop: Loop, out: Path, **settings: Any) -> CompareRecipe:
    """By the hidden taste, against each seed's SFT model, on prompts about subjects nobody saw: the same for all."""
    held_out = loop.shuffled(demo_prompts(held_out=True))[: loop.scale.evaluation_prompts]
    path = out / "held_out_prompts.jsonl"
    disk.write_text(path, "".join(prompt.to_json() + "\n" for prompt in held_out))
    given = {
        "baseline": str(loop.out / "sft"),
        "prompts": {"path": str(path)},
        "judge": {"function": loop.taste.function},
        "precision": loop.precision,
        "sampling": loop.sampling.model_dump(),
        "responses_per_prompt": loop.scale.evaluation_responses,
    }
    return CompareRecipe.model_validate(given | settings)
