"""Who takes part in reinforcement learning: the policy, its reference, the rewards, and the prompts.

What stays the same in several models is in memory once. What all that will take is said before it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from palate.corpus import read_prompts
from palate.errors import ModelError
from palate.lm.adapters import base, merge
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel, Model
from palate.lm.sources.zoo import Loaded, Settle, load_language_model
from palate.recipe import RolloutRecipe, ScoredRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.run.directory import Run
from palate.stages.common import longest, prepare, prompts_with_room, sharing
from palate.stages.estimate.expected import Expected, reinforced
from palate.stages.estimate.fitting import expect

RecipeT = TypeVar("RecipeT", bound=RolloutRecipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is responded to: prompts that leave room for it, and how many rows of their file are not used."""

    prompts: tuple[Prompt, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """The policy and the frozen half of a stage that judges it.

    Attributes:
        loaded: the policy with its chat.
        reference: what the policy is held against: itself as it was at first, or another model.
    """

    loaded: Loaded[LanguageModel]
    reference: LanguageModel
    rewards: Mix
    asked: Asked

    @property
    def policy(self) -> LanguageModel:
        """The model that learns."""
        return self.loaded.model

    @property
    def models(self) -> list[Model]:
        """All of them."""
        return [self.policy, self.reference, *(source.model for source in self.rewards.learned)]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What it responds to."""
        return self.asked.prompts

    @property
    def left_out(self) -> int:
        """Rows of the prompts' file that are not used."""
        return self.asked.left_out

    @property
    def chat(self) -> Chat:
        """How the policy's conversations are laid out."""
        return self.loaded.chat


def foretold(
    recipe: RecipeT,
    run: Run,
    prompts_of_step: Callable[..., list[Prompt]],
    minibatches: Callable[..., list[Sequences]],
) -> tuple[RecipeT, Asked]:
    """The recipe with nothing left open, and the prompts; what the run will take is said.

    Args:
        prompts_of_step, minibatches: of `step`, to find the largest.

    Raises:
        MachineError: there is too little memory.
    """
    expected = Expected(recipe)
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files})
    roomy = prompts_with_room(
        run,
        data,
        [expected.policy.chat],
        longest(
            recipe,
            expected.policy.model,
            *(each.model for each in expected.teachers),
            *(each.model for each in expected.references),
            *(each.model for each in expected.rewards),
        ),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    prompts = roomy.prompts
    key = (recipe.seed_of("order"), recipe.stage)
    of_step = partial(prompts_of_step, prompts, count=recipe.prompts_per_step, key=key)
    expected.fill_in(prompts, roomy.lengths[0], [of_step(step) for step in range(recipe.steps)])

    def split(sequences: Sequences, count: int) -> list[Sequences]:
        return minibatches(sequences, count, key=(*key, "minibatches", 0, 0))

    recipe = expect(run, recipe, expected.policy.device, lambda changed: reinforced(changed, expected, split))
    return recipe, Asked(prompts=prompts, left_out=data.rejected.total)


def load_actors(recipe: ScoredRecipe, asked: Asked, run: Run) -> Actors:
    """All of them; what they were made from is noted in the run."""
    loaded = load_policy(recipe)
    policy, chat = loaded.model, loaded.chat
    prepare(policy, recipe)
    share = sharing([policy], frozen_layers=recipe.frozen_layers)

    def merge_and_share(model: Model) -> None:
        merge(model)
        share(model)

    if recipe.reference:
        reference = load_reference(recipe, chat, run, settle=merge_and_share)
    elif recipe.adapter:
        share(reference := base(policy))
    else:
        reference = load_policy(recipe, settle=merge_and_share).model
    rewards = Mix(recipe.rewards, precision=recipe.precision, max_tokens=recipe.microbatch_tokens, settle=share)
    check_readers(rewards, chat)
    run.add_inputs({"model": loaded.weights, "rewards": rewards.hashes})
    return Actors(loaded=loaded, reference=reference, rewards=rewards, asked=asked)


def check_readers(rewards: Mix, chat: Chat) -> None:
    """Raises:
    ModelError: a reward model does not read the policy's tokens as the policy does.
    """
    if any(source.loaded.chat.tokenizer.get_vocab() != chat.tokenizer.get_vocab() for source in rewards.learned):
        raise ModelError("the reward model has another vocabulary than the policy: train it from the same base model")
    if strangers := [source.loaded.name for source in rewards.learned if not source.reads_like(chat)]:
        raise ModelError(
            f"the reward model {strangers[0]} was trained with another chat template than the policy's, whose "
            "tokens it is to score: give both the same chat_template, and train the reward model again"
        )


def load_policy(recipe: ScoredRecipe, *, settle: Settle | None = None) -> Loaded[LanguageModel]:
    """The model that the recipe starts from."""
    return load_language_model(
        recipe.model, chat_template=recipe.chat_template, precision=recipe.precision, settle=settle
    )


def load_reference(recipe: ScoredRecipe, chat: Chat, run: Run, *, settle: Settle) -> LanguageModel:
    """Another model than the one that the policy starts from; it is asked about the policy's own tokens.

    Raises:
        ModelError: they are not its tokens.
    """
    loaded = load_language_model(recipe.reference, precision=recipe.precision, settle=settle)
    if loaded.chat.tokenizer.get_vocab() != chat.tokenizer.get_vocab():
        raise ModelError(f"the reference {recipe.reference} has another vocabulary than the policy: name a relative")
    run.add_inputs({"reference": loaded.weights})
    return loaded.model
