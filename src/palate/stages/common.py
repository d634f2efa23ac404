"""What several stages do in the same way and no paper has a name for."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from palate.corpus.reading import Read
from palate.errors import DataError, RecipeError
from palate.evals.report import Report, stage_report
from palate.lm.adapters import arrange
from palate.lm.batch import Sequences, per_token
from palate.lm.chat import Chat
from palate.lm.encode import LeftOut, usable_prompts
from palate.lm.model import LanguageModel, Model, ModelT, Trunk
from palate.lm.projection import give_back_packed
from palate.lm.sources.zoo import Loaded, Settle, default_device, left_in_files, save
from palate.objectives.losses import Metrics, combine_metrics
from palate.randomness import permutation
from palate.recipe import Cluster, StageRecipe, TrainingRecipe
from palate.records import Demonstration, Prompt, Ranking, content_id
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.run.world import world

T = TypeVar("T", Prompt, Demonstration, Ranking)


def prepare(model: Model, recipe: TrainingRecipe) -> None:
    """Freeze what the recipe says, or leave all of it and learn adapters, and make every operation repeatable.

    An adapter that the model came with is merged into its weights first.
    """
    if recipe.frozen_layers > model.model.shape.num_layers:
        raise RecipeError(
            f"frozen_layers = {recipe.frozen_layers}, but {recipe.model} has {model.model.shape.num_layers} layers"
        )
    arrange(model, recipe)
    deterministic()


def loading(cluster: Cluster) -> AbstractContextManager[None]:
    """All models are loaded in here that `spread` is given: those that it divides are never whole in memory."""
    return left_in_files() if cluster.shard != "none" and world().size > 1 else nullcontext()


def spread(run: Run, cluster: Cluster, models: Sequence[Model], *, asked_again: Sequence[Model] = ()) -> None:
    """Over the processes, as the recipe says: all models that take part, before an optimizer is made of one.

    ``asked_again`` are those whose head is asked while the gradient of another is computed.
    """
    if cluster.shard == "none":
        return
    if world().size == 1:
        run.note("cluster.shard = weights does nothing in one process: start several by torchrun")
        return
    from palate.cluster.sharding import shard

    shard(models, device=default_device(), asked_again=asked_again)
    run.say(f"each of {world().size} processes holds its part of the weights, and of what is learned of them")


def write_model(
    run: Run,
    recipe: TrainingRecipe,
    loaded: Loaded[ModelT],
    *,
    extra_files: Mapping[str, str] | None = None,
    below: str = "",
) -> None:
    """What came out, to ``model/``: whole, or the adapter alone.

    Args:
        below: a directory of the run's that gets ``model/`` instead.
    """
    alone = recipe.adapter is not None and not recipe.adapter.merge
    beside = loaded if alone else None
    with loaded.model.whole() as model:
        world().once(
            lambda: save(model, loaded.chat, run.directory / below / "model", beside=beside, extra_files=extra_files),
            "the model to be written",
        )


def longest(recipe: StageRecipe, *models: Model) -> tuple[float, str]:
    """The longest prompt + response in tokens, and what sets it: the recipe, or what the models were made for."""
    return min((recipe.max_length, "max_length"), *((model.context, "the model's context") for model in models))


def sharing(models: list[Model], *, frozen_layers: int = 0) -> Settle:
    """Of models that learn nothing, loaded one after the other: what is the same in several is in memory once.

    Args:
        models: those that are there; every one that is loaded joins them. One that learns is not changed.
        frozen_layers: below them the trunk ends; a smaller model has fewer.
    """

    def settle(model: Model) -> None:
        model.freeze_all(min(frozen_layers, model.model.shape.num_layers))
        model.join(models)
        models.append(model)

    return settle


def make_room(learner: Model, trunk: Trunk | None, others: Sequence[Model] = ()) -> None:
    """Give back all copies of weights but those that this model multiplies with when it learns, above the trunk."""
    give_back_packed([learner, *others], needed=learner.model.upper(learner.first_layer(trunk)))


def deterministic() -> None:
    """Same machine, same numbers: a resumed run must end with the same bits.

    A GPU has no repeatable kernel for a few operations (running sums among them); there it warns and goes on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before it is first used
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def plan(count: int, batch: int, epochs: int, seed: int, stage: str) -> list[Tensor]:
    """The items of every optimizer step; each epoch is a new permutation, its last step may be smaller."""
    orders = (torch.from_numpy(permutation(count, seed, stage, "order", epoch)) for epoch in range(epochs))
    return [part for order in orders for part in order.split(batch)]


def say_left_out(
    run: Run,
    data: Read[T],
    encoded: Mapping[str, tuple[Sequence[T], Sequence[LeftOut]]],
    *,
    of: int,
    max_left_out: float,
) -> int:
    """Say what of the data is not used, before the first step; the run repeats it at its end.

    Columns by name, rows with reason and place.

    Args:
        run: notes it for the report.
        data: as it was read; what was left out since then is added to its rejected rows.
        encoded: by what they are for: records that were to be encoded, and which of them could not be.
        of: records that were to be used.
        max_left_out: the share of those that may be left out.

    Returns:
        The number of rows that are not used.

    Raises:
        DataError: too many cannot be encoded, or none is left for something.
    """
    left_out = [(records[item.index], item.reason) for records, items in encoded.values() for item in items]
    data.reject(left_out)
    for line in (*data.remarks, *str(data.rejected).splitlines()):
        run.note(line)
    emptied = [use for use, (records, items) in encoded.items() if len(items) == len(records)]
    if emptied or len(left_out) > max_left_out * of:
        reason, _ = Counter(reason for _, reason in left_out).most_common(1)[0]
        ways = ["mend or shorten them"]
        ways += ["raise max_length"] if "max_length" in reason else []
        ways += ["lower max_new_tokens"] if "max_new_tokens" in reason else []
        ways += [] if emptied else [f"set max_left_out = {math.ceil(100 * len(left_out) / of) / 100:g}"]
        why = f"none is left {emptied[0]}" if emptied else f"more than max_left_out = {max_left_out:g} allows"
        raise DataError(
            f"{len(left_out)} of {of} rows cannot be used, {why}; most often: {reason} "
            f"({', '.join(data.rejected.examples[reason])}): {' or '.join(ways)}"
        )
    return data.rejected.total


def say_chat(run: Run, chat: Chat, conversations: Iterable[Prompt], *, name: str = "chat_template") -> None:
    """Say what the chat template does that nobody would expect, once, before the first step.

    Args:
        name: under which its hash is one of the run's inputs.

    Raises:
        RunError: the run was resumed, and the template is not what it was.
    """
    run.add_inputs({name: content_id(str(chat.tokenizer.chat_template))})
    for line in chat.differences:
        run.note(f"chat template: {line}")
    merged = sum(chat.merges_system(prompt) for prompt in conversations)
    if merged:
        run.note(f"chat template: none for system turns; {merged} stand at the beginning of the user's turn instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roomy:
    """Prompts that leave room for a response, tokenised once to find them.

    Attributes:
        lengths: for each chat template those of all prompts, in tokens.
    """

    prompts: tuple[Prompt, ...]
    lengths: tuple[tuple[int, ...], ...]


def prompts_with_room(
    run: Run,
    data: Read[Prompt],
    chats: Sequence[Chat],
    limit: tuple[float, str],
    *,
    max_new_tokens: int,
    max_left_out: float,
) -> Roomy:
    """The prompts that every chat template can hold and that leave room for a response.

    All of them are looked at before the first step, or one would end the run at whatever step it is met.

    Args:
        chats: of the model, and of the baseline if there is one.
        limit: the longest prompt + response in tokens, and what sets it.
    """
    max_length, name = limit
    prompts, encoded = data.records, {}
    lengths: list[dict[str, int]] = []
    for number, chat in enumerate(chats):
        with showing("prompts") as show:
            usable = usable_prompts(
                chat, prompts, max_length=max_length - max_new_tokens, limit=f"{name} - max_new_tokens", show=show
            )
        say_chat(run, chat, usable.prompts, name="baseline_chat_template" if number else "chat_template")
        encoded["for the baseline" if number else "for the model"] = (prompts, usable.left_out)
        prompts = usable.prompts
        lengths.append({prompt.id: length for prompt, length in zip(prompts, usable.lengths, strict=True)})
        if not prompts:
            break
    say_left_out(run, data, encoded, of=len(data.records), max_left_out=max_left_out)
    return Roomy(prompts=prompts, lengths=tuple(tuple(known[each.id] for each in prompts) for known in lengths))


def response_logprobs(
    policy: LanguageModel, sequences: Sequences, trunk: Trunk | None, *, temperature: float, max_tokens: int
) -> Tensor:
    """[B] log-probability of each whole response, in nats; ``sequences`` are whole, not selected from others."""
    return per_token(
        sequences, max_tokens, lambda microbatch: policy.logprobs(microbatch, temperature=temperature, trunk=trunk)
    ).sum(1)


def finish_run(run: Run, numbers: Mapping[str, float | None], *, extra: Callable[[Report], None] | None = None) -> None:
    """Draw the report, with what the stage adds to it; then write the figures and mark the run as finished."""
    title = f"{run.stage}: {run.directory.name}"
    world().once(
        lambda: stage_report(run.directory, title=title, numbers=numbers, notes=run.notes, extra=extra), "the report"
    )
    run.finish(numbers)


def combined(computed: Sequence[Metrics]) -> Metrics:
    """The metrics of an optimizer step from those of all its microbatches, whichever process computed them."""
    return combine_metrics(world().whole(computed, "metrics"))


def floats(metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Plain numbers for the log."""
    return {name: float(value) for name, value in metrics.items()}
