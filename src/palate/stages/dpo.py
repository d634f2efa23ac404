"""Direct preference optimisation: the policy is its own reward model.

Every strictly ordered pair of a ranking is one comparison; both responses of a pair follow one prompt, which is computed
once. Log-probabilities are sums over response tokens at one temperature. Both the chosen and the rejected ones are
logged: the loss only sees their difference, and both often fall.

Left out: ties (they carry no order), reference-free variants, length normalisation.

Rafailov et al. 2023 (arXiv 2305.18290). Run it: `palate dpo recipes/dpo.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.splits import split
from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_responses
from palate.lm.model import LanguageModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.zoo import load_language_model, save
from palate.objectives.losses import combine_metrics, dpo_loss
from palate.recipe import DPORecipe
from palate.records import Ranking
from palate.run import Run
from palate.stages.common import finish_run, floats, plan, prepare
from palate.stages.rollouts import per_token


def train(recipe: DPORecipe, run: Run) -> None:
    """Fine-tune ``recipe.model`` on preferences and write it to ``run``."""
    loaded = load_language_model(recipe.model, precision=recipe.precision)
    policy, chat = loaded.model, loaded.chat
    prepare(policy, recipe)

    data = read_rankings(recipe.data)
    run.add_inputs({"data": data.files, "model": loaded.weights})
    learned, held_out = split(data.records, recipe.holdout)
    train_pairs, too_long = encode_pairs(chat, learned, recipe.max_length)
    validation, too_long_held_out = encode_pairs(chat, held_out, recipe.max_length)
    train_pairs, validation = train_pairs.to(policy.device), validation.to(policy.device)
    trunk, held_out_trunk = policy.trunk(train_pairs), policy.trunk(validation)
    # before the first step the policy is its own reference
    reference = response_logprobs(policy, train_pairs, recipe, trunk)
    held_out_reference = response_logprobs(policy, validation, recipe, held_out_trunk)

    batches = plan(len(train_pairs) // 2, recipe.batch_pairs, recipe.epochs, recipe.seed, "dpo")
    optimizer = Optimizer(policy, recipe.optimizer, len(batches), name="policy")

    for step in run.steps(
        len(batches), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        pairs = batches[step]
        batch = train_pairs.select(torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten())
        parts = []
        for part in batch.parts(recipe.microbatch_tokens, whole_groups=True):
            logprobs = policy.logprobs(part, temperature=recipe.temperature, trunk=trunk).sum(1)
            loss, metrics = dpo_loss(
                *chosen_and_rejected(logprobs),
                *chosen_and_rejected(reference[part.rows]),
                beta=recipe.beta,
                label_smoothing=recipe.label_smoothing,
                denominator=len(pairs),
            )
            loss.backward()
            parts.append(metrics)
        run.log(step, floats(combine_metrics(parts)) | optimizer.step(step))

    _, metrics = dpo_loss(
        *chosen_and_rejected(response_logprobs(policy, validation, recipe, held_out_trunk)),
        *chosen_and_rejected(held_out_reference),
        beta=recipe.beta,
    )
    save(policy, chat, run.directory / "model")
    finish_run(
        run,
        {
            "pairs": len(train_pairs) // 2,
            "too_long": too_long + too_long_held_out,
            "rejected": data.rejected.total,
            "held_out_accuracy": float(metrics["dpo/accuracy"]),
        }
    )


def encode_pairs(chat: Chat, rankings: Sequence[Ranking], max_length: int) -> tuple[Sequences, int]:
    """Chosen and rejected responses in turn, the pair as a group; and the pairs left out for their length."""
    pairs = [(ranking, better, worse) for ranking in rankings for better, worse in ranking.pairs]
    if not pairs:
        raise DataError("no ranking orders two responses: DPO needs pairs of chosen and rejected ones")
    prompts = [ranking.prompt for ranking, *_ in pairs for _ in range(2)]
    texts = [ranking.responses[index].text for ranking, *both in pairs for index in both]
    encoded = encode_responses(chat, prompts, texts, max_length=max_length)
    kept = set(encoded.kept)
    whole = [place for place, item in enumerate(encoded.kept) if item ^ 1 in kept]
    sequences = encoded.sequences.select(torch.tensor(whole))
    return sequences.regroup(torch.arange(len(whole)) // 2), len(pairs) - len(whole) // 2


def chosen_and_rejected(logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """[2 N] in turn -> two of [N]."""
    return logprobs[0::2], logprobs[1::2]


@torch.no_grad()
def response_logprobs(policy: LanguageModel, sequences: Sequences, recipe: DPORecipe, trunk: Trunk | None) -> Tensor:
    """[B] log-probability of each whole response."""
    return per_token(
        sequences,
        recipe.microbatch_tokens,
        lambda part: policy.logprobs(part, temperature=recipe.temperature, trunk=trunk),
    ).sum(1)
