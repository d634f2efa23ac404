"""The commands that take a recipe: `palate NAME RECIPE.toml`, and the stage that each of them calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A command that takes a recipe: ``palate NAME recipes/EXAMPLE.toml``."""

    name: str
    help: str
    text: str
    module: str
    recipe: str
    example: str


STAGES = (
    Stage(
        "sft",
        "fine-tune on demonstrations",
        "Supervised fine-tuning: the model learns to answer as demonstrations do, the end of the answer included.",
        "palate.stages.sft",
        "SFTRecipe",
        "sft",
    ),
    Stage(
        "sample",
        "sample K responses per prompt, to be ranked",
        "Writes candidates.jsonl: every prompt with K responses and where each came from.",
        "palate.stages.sample",
        "SampleRecipe",
        "sample",
    ),
    Stage(
        "reward",
        "train a reward model on rankings",
        "A reward model learns from rankings which response people would prefer. Its accuracy is reported beside what\n"
        "choosing the longer response would reach.",
        "palate.stages.reward",
        "RewardRecipe",
        "reward",
    ),
    Stage(
        "ppo",
        "improve a model on its reward by PPO",
        "Proximal policy optimisation, as InstructGPT used it: with a value model, a KL penalty for every token and,\n"
        "if the recipe has [pretraining], the pretraining gradient mixed in.",
        "palate.stages.ppo",
        "PPORecipe",
        "ppo",
    ),
    Stage(
        "reinforce",
        "improve a model on its reward by REINFORCE, leave-one-out",
        "REINFORCE with the leave-one-out baseline (RLOO): the other responses to a prompt say what was to be\n"
        "expected. No value model.",
        "palate.stages.reinforce",
        "ReinforceRecipe",
        "reinforce",
    ),
    Stage(
        "dpo",
        "train on preferences directly, without a reward model",
        "Direct preference optimisation: no reward model and no sampling, only pairs.",
        "palate.stages.dpo",
        "DPORecipe",
        "dpo",
    ),
    Stage(
        "best-of-n",
        "choose the best of n responses; nothing is trained",
        "Samples n responses to each prompt and keeps the one with the highest reward: what any training must beat.",
        "palate.stages.best_of_n",
        "BestOfNRecipe",
        "best_of_n",
    ),
    Stage(
        "eval",
        "win rate of one model against another",
        "Both models answer held-out prompts and a judge that training never saw compares the answers. With intervals.",
        "palate.stages.evaluate",
        "WinRateRecipe",
        "win_rate",
    ),
)
