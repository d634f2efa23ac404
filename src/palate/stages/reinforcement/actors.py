"""Who takes part in reinforcement learning: the policy, what it was at first, the rewards, and the prompts.

What stays the same in several models is in memory once. What all that will take is said before it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from palate.corpus import read_prompts
from palate.errors import ModelError
from palate.lm.adapters import base, merge
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import RLRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.run.directory import Run
from palate.stages.common import longest, prepare, prompts_with_room
from palate.stages.estimate.expected import Expected, reinforced
from palate.stages.estimate.fitting import expect

RecipeT = TypeVar("RecipeT", bound=RLRecipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """The policy and the frozen half of a stage that judges it.

    Attributes:
        loaded: the policy with its chat.
        reference: the policy as it was at first.
        left_out: rows of the prompts' file that are not used.
    """

    loaded: Loaded[LanguageModel]
    reference: LanguageModel
    rewards: Mix
    prompts: tuple[Prompt, ...]
    left_out: int

    @property
    def policy(self) -> LanguageModel:
        """The model that learns."""
        return self.loaded.model

    @property
    def chat(self) -> Chat:
        """How the policy's conversations are laid out."""
        return self.loaded.chat


def foretold(
    recipe: RecipeT,
    run: Run,
    prompts_of_step: Callable[..., list[Prompt]],
    minibatches: Callable[..., list[Sequences]],
) -> RecipeT:
    """The recipe with nothing left open; what the run will take is said.

    Args:
        prompts_of_step, minibatches: of `step`, to find the largest.

    Raises:
        MachineError: there is too little memory.
    """

    def prompts(usable: Sequence[Prompt], step: int) -> list[Prompt]:
        return prompts_of_step(usable, step, count=recipe.prompts_per_step, key=(recipe.seed, recipe.stage))

    def split(sequences: Sequences, count: int) -> list[Sequences]:
        return minibatches(sequences, count, key=(recipe.seed, recipe.stage, "minibatches", 0, 0))

    expected = Expected(recipe, prompts)
    return expect(run, recipe, expected.policy.device, lambda changed: reinforced(changed, expected, split))


def load_actors(recipe: RLRecipe, run: Run) -> Actors:
    """All of them; what they were made from is noted in the run."""
    loaded = load_policy(recipe)
    policy, chat = loaded.model, loaded.chat
    prepare(policy, recipe)
    reference = base(policy) if recipe.adapter else load_policy(recipe).model
    merge(reference)
    rewards = Mix(recipe.rewards, precision=recipe.precision, max_tokens=recipe.microbatch_tokens)
    models = [policy, reference, *(source.model for source in rewards.learned)]
    for number, model in enumerate(models[1:], start=1):
        model.freeze_all(min(recipe.frozen_layers, model.model.shape.num_layers))
        for other in models[:number]:
            model.adopt(other)
    if any(source.loaded.chat.tokenizer.get_vocab() != chat.tokenizer.get_vocab() for source in rewards.learned):
        raise ModelError("the reward model has another vocabulary than the policy: train it from the same base model")
    if strangers := [source.loaded.name for source in rewards.learned if not source.reads_like(chat)]:
        raise ModelError(
            f"the reward model {strangers[0]} was trained with another chat template than the policy's, whose "
            "tokens it is to score: give both the same chat_template, and train the reward model again"
        )
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files, "model": loaded.weights, "rewards": rewards.hashes})
    prompts = prompts_with_room(
        run,
        data,
        [chat],
        longest(recipe, policy, *(source.model for source in rewards.learned)),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    return Actors(loaded=loaded, reference=reference, rewards=rewards, prompts=prompts, left_out=data.rejected.total)


def load_policy(recipe: RLRecipe) -> Loaded[LanguageModel]:
    """The model that the recipe starts from."""
    return load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
