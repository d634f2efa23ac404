"""The reward model: which of two responses would people prefer, learned from their rankings.

A language model whose unembedding is replaced by one number, trained with the Bradley-Terry likelihood over all
C(K, 2) pairs of every ranking. Each distinct response of a batch is computed once, and so is each prompt, however many
rankings and pairs they appear in. Rankings of one prompt stay in one batch as long as they fit (separating them
overfits: the same response would be visited many times an epoch), and whole prompts are held out for validation.

The result is reported beside two numbers without which accuracy says little: how often the longer response wins, and
how often two labelers agree with each other.

Left out: a reward for partial responses, soft labels, more than one head.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Run it: `palate reward recipes/reward.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.pairs import ComparisonSet, Judgement, batches, comparison_sets
from palate.corpus.splits import split
from palate.evals.calibration import accuracy, calibration, longer_wins
from palate.feedback.agreement import agreement
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_responses
from palate.lm.model import ScalarModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.zoo import load_scalar_model, save
from palate.objectives.losses import Metrics, combine_metrics, ranking_loss
from palate.recipe import RewardRecipe
from palate.records import Ranking
from palate.rewards.learned import NORMALIZATION_FILE, Normalization, raw_scores
from palate.run import Run
from palate.stages.common import finish_run, floats, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Every distinct response of a set of rankings, computed once wherever it appears.

    Attributes:
        rankings: as people gave them, without those that have a response that is too long.
        sets: the same, grouped by prompt.
        sequences: one for each distinct response.
        row_of: (prompt id, text) -> row of the sequences.
        too_long: rankings left out.
    """

    rankings: list[Ranking]
    sets: list[ComparisonSet]
    sequences: Sequences
    row_of: Mapping[tuple[str, str], int]
    too_long: int

    def rows(self, comparisons: ComparisonSet) -> list[int]:
        """Rows of a set's responses."""
        return [self.row_of[comparisons.prompt.id, text] for text in comparisons.responses]


def train(recipe: RewardRecipe, run: Run) -> None:
    """Train a reward model on rankings, normalise it and write it to ``run``."""
    loaded = load_scalar_model(recipe.model, precision=recipe.precision, seed=recipe.seed)
    model, chat = loaded.model, loaded.chat
    prepare(model, recipe)

    data = read_rankings(recipe.data)
    run.add_inputs({"data": data.files, "model": loaded.weights})
    learned, held_out = split(data.records, recipe.holdout)
    train_set = prepare_responses(chat, learned, recipe, model.device)
    validation = prepare_responses(chat, held_out, recipe, model.device)
    trunk = model.trunk(train_set.sequences)

    steps = [
        batch
        for epoch in range(recipe.epochs)
        for batch in batches(train_set.sets, max_responses=recipe.batch_responses, key=(recipe.seed, "reward", epoch))
    ]
    optimizer = Optimizer(model, recipe.optimizer, len(steps), name="reward")

    for step in run.steps(
        len(steps), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"reward": optimizer}
    ):
        rows = sorted({row for comparisons in steps[step] for row in train_set.rows(comparisons)})
        judgements = sum(weights(comparisons).sum() for comparisons in steps[step])
        parts = []
        for part in train_set.sequences.select(torch.tensor(rows)).parts(recipe.microbatch_tokens, whole_groups=True):
            rewards = model.scores(part, trunk=trunk)
            loss, metrics = comparison_loss(rewards, part, train_set, steps[step], recipe, denominator=judgements)
            loss.backward()
            parts.append(metrics)
        run.log(step, floats(combine_metrics(parts)) | optimizer.step(step))

    finish(model, chat, recipe, run, train_set, validation, trunk, rejected=data.rejected.total)


def prepare_responses(chat: Chat, rankings: Sequence[Ranking], recipe: RewardRecipe, device: torch.device) -> Responses:
    """Group by prompt, tokenise every distinct response once; rankings with one that is too long are counted."""
    items = list({(r.prompt.id, response.text): (r.prompt, response.text) for r in rankings for response in r.responses}.values())
    encoded = encode_responses(chat, *zip(*items, strict=True), max_length=recipe.max_length)
    row_of = {(items[item][0].id, items[item][1]): row for row, item in enumerate(encoded.kept)}
    usable = [r for r in rankings if all((r.prompt.id, response.text) in row_of for response in r.responses)]
    return Responses(
        rankings=usable,
        sets=comparison_sets(usable, labeler_weights=recipe.labeler_weights),
        sequences=encoded.sequences.to(device),
        row_of=row_of,
        too_long=len(rankings) - len(usable),
    )


def weights(comparisons: ComparisonSet) -> NDArray[np.float64]:
    """[J] weight of each judgement."""
    return np.array([judgement.weight for judgement in comparisons.judgements])


def comparison_loss(
    rewards: Tensor,
    part: Sequences,
    responses: Responses,
    batch: Sequence[ComparisonSet],
    recipe: RewardRecipe,
    *,
    denominator: float,
) -> tuple[Tensor, Metrics]:
    """The ranking loss of the judgements whose responses are in this part; rewards [B] in its order."""
    place = {row: index for index, row in enumerate(part.rows.tolist())}
    inside: list[tuple[list[int], Judgement]] = []
    for comparisons in batch:
        rows = responses.rows(comparisons)
        if rows[0] in place:
            inside += [([place[rows[i]] for i in judgement.indices], judgement) for judgement in comparisons.judgements]
    sizes = torch.tensor([len(index) for index, _ in inside])

    def each(values: Sequence[float]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), sizes).to(rewards.device)

    return ranking_loss(
        rewards[torch.tensor([i for index, _ in inside for i in index], device=rewards.device)],
        torch.tensor([rank for _, judgement in inside for rank in judgement.ranks], device=rewards.device),
        each(range(len(inside))),
        margins=each([recipe.margin_scale * judgement.strength for _, judgement in inside]),
        weights=each([judgement.weight for _, judgement in inside]),
        tie=recipe.tie,
        denominator=denominator,
    )


def finish(
    model: ScalarModel,
    chat: Chat,
    recipe: RewardRecipe,
    run: Run,
    train_set: Responses,
    validation: Responses,
    trunk: Trunk | None,
    *,
    rejected: int,
) -> None:
    """Normalise on the reference set, measure on held-out prompts, save."""
    held_out = raw_scores(model, validation.sequences, recipe.microbatch_tokens)
    reference = (
        held_out
        if recipe.normalize_on == "validation"
        else raw_scores(model, train_set.sequences, recipe.microbatch_tokens, trunk)
    )
    normalization = Normalization.of(reference, f"distinct {recipe.normalize_on} responses")
    save(model, chat, run.directory / "model", extra_files={NORMALIZATION_FILE: normalization.to_json()})
    too_long = train_set.too_long + validation.too_long
    numbers = {"rankings": len(train_set.rankings), "rejected": rejected, "too_long": too_long}
    finish_run(run, measure(held_out, validation, seed=recipe.seed) | numbers)


def measure(scores: Tensor, responses: Responses, *, seed: int) -> dict[str, float | None]:
    """Accuracy on every strictly ordered pair, beside the longer response's and the labelers' agreement."""
    pairs = [(ranking, *pair) for ranking in responses.rankings for pair in ranking.pairs]
    raw = scores.tolist()

    def score(ranking: Ranking, index: int) -> float:
        return float(raw[responses.row_of[ranking.prompt.id, ranking.responses[index].text]])

    margins = [score(ranking, better) - score(ranking, worse) for ranking, better, worse in pairs]
    prompts = [ranking.prompt.id for ranking, *_ in pairs]
    texts = [(ranking.responses[better].text, ranking.responses[worse].text) for ranking, better, worse in pairs]
    right, longer = accuracy(margins, prompts, seed=seed), longer_wins(texts, prompts, seed=seed)
    reliability, agreed = calibration(margins), agreement(responses.rankings, seed=seed)
    return {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "longer_wins": longer.value,
        "agreement": agreed.percent,
        "agreement_low": agreed.low,
        "agreement_high": agreed.high,
        "calibration_error": reliability.error,
        "log_loss": reliability.log_loss,
        "held_out_pairs": len(pairs),
        "held_out_prompts": len(set(prompts)),
    }
