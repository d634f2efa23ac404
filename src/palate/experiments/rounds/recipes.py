"""The recipes of a round's stages: what the tables of a recipe of rounds say, and what a round fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palate import recipe as recipes
from palate.commands import STAGES, Stage
from palate.errors import RecipeError
from palate.randomness import derive_seed
from palate.recipe import JudgeRecipe, RewardRecipe, RoundsRecipe, SampleRecipe, WinRateRecipe, parse_recipe
from palate.recipe.loading import RecipeT

IMPROVING = ("reinforce", "ppo", "raft", "online_dpo", "dpo")
"""Stages by which a policy learns from judgements, as recipes call them."""
FILLED_IN = (
    *("seed", "model", "chat_template", "precision", "sampling", "temperature"),
    *("prompts", "data", "reference", "baseline", "baseline_chat_template"),
)
"""Keys that no table may have: a round knows what they are."""
OF_A_JUDGE = ("seed", "candidates", "people")
"""Those that the table of a model that judges may not have: the model is its own."""


class RoundRecipes:
    """The recipes of every round's stages.

    Args:
        recipe: of all rounds.
        out: their directory.
        source: where the recipe comes from, for errors.

    Attributes:
        improving: the stage by which the policy learns.
    """

    def __init__(self, recipe: RoundsRecipe, out: Path, source: str) -> None:
        self.recipe, self.out, self.source = recipe, out, source
        named = recipe.policy.get("stage", "")
        if named not in IMPROVING:
            raise RecipeError(f'{source}: [policy]: write stage = "..." into it, one of {", ".join(IMPROVING)}')
        self.improving: Stage = next(stage for stage in STAGES if stage.name == str(named).replace("_", "-"))
        if self.sample(1).responses_per_prompt < 2:
            raise RecipeError(f"{source}: [sample]: of one response nothing is compared: raise responses_per_prompt")
        if len(self.reward(1).objectives) > 1:
            raise RecipeError(f"{source}: [reward]: a round learns one objective; leave objectives out")
        if self.asks_a_model:
            self.judge(1)

    @property
    def learns_a_reward(self) -> bool:
        """Whether there is a reward model between judgements and policy."""
        return self.improving.name != "dpo"

    def sample(self, number: int) -> SampleRecipe:
        """Responses of the policy that the round starts from, to its prompts."""
        return self._parsed(
            SampleRecipe,
            "sample",
            number,
            self.policy(number - 1),
            prompts={"path": self.prompts(number)},
            sampling=self.recipe.sampling.model_dump(),
        )

    @property
    def asks_a_model(self) -> bool:
        """Whether a model judges."""
        return self.recipe.labelers == "ai"

    def judge(self, number: int) -> JudgeRecipe:
        """A model compares the round's candidates."""
        given = {"seed": self._seed(number), "candidates": {"path": self.candidates(number)}}
        where = self._checked("judge", OF_A_JUDGE)
        return parse_recipe(JudgeRecipe, dict(self.recipe.judge) | given, where=where)

    def reward(self, number: int) -> RewardRecipe:
        """A reward model from the judgements."""
        before = self.reward_model(number - 1) if number > 1 and self.recipe.reward_start == "previous" else ""
        return self._parsed(RewardRecipe, "reward", number, before, data={"path": ",".join(self.judgements(number))})

    def improve(self, number: int, start: str, *, judged_until: int) -> Any:
        """The policy of a round, or of the control.

        Args:
            number: the round.
            start: the policy's directory; empty: the first model.
            judged_until: the last round whose judgements it learns from.
        """
        recipe = self.recipe
        if self.learns_a_reward:
            more: Any = recipe.policy.get("rewards", [])
            given: dict[str, Any] = {
                "prompts": {"path": self.prompts(number)},
                "rewards": [{"model": self.reward_model(judged_until)}, *more],
                "sampling": recipe.sampling.model_dump(),
                "reference": recipe.model if recipe.kl_reference == "first" and start else "",
            }
        else:
            given = {
                "data": {"path": ",".join(self.judgements(judged_until))},
                "temperature": recipe.sampling.temperature,
            }
        return self._parsed(getattr(recipes, self.improving.recipe), "policy", number, start, **given)

    def evaluation(self, policy: str) -> WinRateRecipe:
        """A policy against the first model; all are asked alike."""
        judge = self.recipe.evaluation.get("judge", {"function": self.recipe.taste.function})
        return self._parsed(
            WinRateRecipe,
            "evaluation",
            0,
            policy,
            baseline=self.recipe.model,
            baseline_chat_template=self.recipe.chat_template,
            prompts={"path": str(self.out / "held_out_prompts.jsonl")},
            sampling=self.recipe.sampling.model_dump(),
            judge=judge,
        )

    # Where everything is.

    def policy(self, number: int) -> str:
        """What a round ends with; of round 0 it is the first model, which goes by no directory."""
        return str(self.out / f"round-{number}" / "policy") if number else ""

    def control(self, number: int) -> str:
        """What the control of a round ends with; of round 1 it is the round itself."""
        return str(self.out / f"round-{number}" / "control") if number > 1 else self.policy(number)

    def reward_model(self, number: int) -> str:
        """What a round has learned from judgements."""
        return str(self.out / f"round-{number}" / "reward")

    def prompts(self, number: int) -> str:
        """The round's prompts."""
        return str(self.out / f"round-{number}" / "prompts.jsonl")

    def candidates(self, number: int) -> str:
        """The responses to them."""
        return str(self.out / f"round-{number}" / "samples" / "candidates.jsonl")

    def judgements(self, number: int) -> Sequence[str]:
        """What a round learns from: files of rankings, the oldest first."""
        first = 1 if self.recipe.labels == "all" else number
        return [str(self.out / f"round-{each}" / "rankings.jsonl") for each in range(first, number + 1)]

    def _parsed(self, kind: type[RecipeT], table: str, number: int, start: str, **given: Any) -> RecipeT:
        """What a table says, with the model it starts from (empty: the first one) and whatever else is filled in.

        Raises:
            RecipeError: the table has a key that is filled in, an unknown one, or a bad value.
        """
        said: Mapping[str, Any] = getattr(self.recipe, table)
        where = self._checked(table, FILLED_IN)
        shared: dict[str, Any] = {
            "seed": self._seed(number),
            "precision": self.recipe.precision,
            "model": start or self.recipe.model,
            "chat_template": "" if start else self.recipe.chat_template,
        }
        if "frozen_layers" in kind.model_fields:
            shared["frozen_layers"] = self.recipe.frozen_layers
        return parse_recipe(kind, shared | dict(said) | given, where=where)

    def _checked(self, table: str, filled_in: Sequence[str]) -> str:
        """Where a table is, for errors; it has none of the keys that are filled in."""
        where = f"{self.source}: [{table}]"
        if taken := [key for key in filled_in if key in getattr(self.recipe, table)]:
            raise RecipeError(f"{where}: {taken[0]} is filled in by the rounds; leave it out")
        return where

    def _seed(self, number: int) -> int:
        """A round's own; 0: what all are measured with."""
        return self.recipe.seed if not number else derive_seed(self.recipe.seed, "round", number) % 2**31
