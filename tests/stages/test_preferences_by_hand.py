"""The reward model and DPO, step by step, from the same rankings: the same losses, weights and report as by hand.

The rankings have all that a formula could forget: two to four responses, ties, copies, responses that several people
judged, stated strengths, labelers of several weights, a judgement of nothing but ties, and held-out prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.stages.in_transformers import AdamW, Network, assert_moved_alike, run_stage, softplus, written
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from palate.intervals import ratio_estimate
from palate.lm.sources.zoo import locate
from palate.recipe import DPORecipe, RewardRecipe
from palate.records import Prompt, Ranking, Response
from palate.stages import dpo, reward

WEIGHTS = {"ann": 2.0, "bob": 0.5, "eve": 0.0}
OPTIMIZER = {
    "learning_rate": 0.4,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.02,
    "beta1": 0.8,
    "beta2": 0.9,
    "epsilon": 1.0,
    "max_grad_norm": 0.0,
}


def ranked(about: str, split: str, labeler: str, strength: float | None = None, **ranks: Any) -> Ranking:
    """Responses by their letter, each of its own length; a letter and a digit is a copy."""
    texts = {"a": "It is.", "b": "It is not, and it was not.", "c": "Hm?", "d": "Who knows, really."}
    return Ranking(
        prompt=Prompt.from_text(f"What of {about}?", tags={"split": split}),
        responses=tuple(Response(text=texts[letter[0]]) for letter in ranks),
        ranks=tuple(ranks.values()),
        labeler=labeler,
        strength=strength,
    )


TRAIN = [
    ranked("tea", "train", "ann", a=1, b=3, c=2, d=2),
    ranked("tea", "train", "bob", 2.0, b=1, a=2),
    ranked("the sea", "train", "ann", 0.5, a=2, b=3, a2=1),
    ranked("rain", "train", "cat", c=1, d=1),
    ranked("rain", "train", "bob", 1.5, b=2, d=1, c=3),
    ranked("it all", "train", "", a=2, d=1),
    ranked("mice", "train", "eve", a=1, b=2),
]
HELD_OUT = [
    ranked("oak", "test", "ann", a=1, b=2, c=3),
    ranked("oak", "test", "bob", a=3, b=2, c=1),
    ranked("oak", "test", "cat", b=1, a=1, c=2),
    ranked("elm", "test", "ann", d=1, a=2),
    ranked("ash", "test", "bob", b=1, c=2, b2=3),
    ranked("yew", "test", "cat", a=1, b=1),
]


def best_ranks(ranking: Ranking) -> dict[str, int]:
    """The best rank of each distinct text."""
    best: dict[str, int] = {}
    for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
        best[response.text] = min(rank, best.get(response.text, rank))
    return best


def ordered(ranking: Ranking) -> Iterator[tuple[str, str]]:
    """The better and the worse text of every strictly ordered pair."""
    best = best_ranks(ranking)
    return ((better, worse) for better in best for worse in best if best[better] < best[worse])


def tied(ranking: Ranking) -> Iterator[tuple[str, str]]:
    best = best_ranks(ranking)
    return ((one, other) for one in best for other in best if one < other and best[one] == best[other])


def distinct(rankings: Sequence[Ranking]) -> dict[tuple[str, str], Prompt]:
    return {(ranking.prompt.id, text): ranking.prompt for ranking in rankings for text in best_ranks(ranking)}


# the reward model


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model that says something."""
    network = Network(locate("tiny"), AutoModelForSequenceClassification)
    with torch.no_grad():
        network.network.score.weight.copy_(0.3 * torch.sin(torch.arange(32.0))[None])
    return network.write(tmp_path_factory.mktemp("scoring"))


def scores(network: Network, rankings: Sequence[Ranking]) -> dict[tuple[str, str], Tensor]:
    return {key: network.score(prompt, key[1]) for key, prompt in distinct(rankings).items()}


def ranking_nll(score: dict[str, Tensor], ranking: Ranking, *, tie: str, margin: float) -> Tensor:
    """Ouyang et al. 2022, equation 1, with a margin; a tie is half a win for either."""
    terms = [-logsigmoid(score[better] - score[worse] - margin) for better, worse in ordered(ranking)]
    if tie == "half":
        gaps = [score[one] - score[other] for one, other in tied(ranking)]
        terms += [-0.5 * logsigmoid(gap) - 0.5 * logsigmoid(-gap) for gap in gaps]
    return torch.stack(terms).mean()


def weighted_mean(values: Sequence[Any], rankings: Sequence[Ranking]) -> Any:
    weights = [WEIGHTS.get(ranking.labeler, 1.0) for ranking in rankings]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def reward_tree(scoring: str, directory: Path) -> dict[str, Any]:
    return {
        "model": scoring,
        "data": written(directory / "data.jsonl", [*TRAIN, *HELD_OUT]) | {"tags": ["split"]},
        "holdout": {"tag": "split", "value": "test"},
        "labeler_weights": WEIGHTS,
        "optimizer": OPTIMIZER,
    }


@pytest.mark.parametrize(
    ("tie", "margin_scale", "normalize_on", "microbatch_tokens"),
    [("half", 0.7, "train", 4096), ("skip", 0.0, "validation", 64)],
)
def test_a_reward_model_is_the_one_trained_by_hand(
    tie: str, margin_scale: float, normalize_on: str, microbatch_tokens: int, scoring: str, tmp_path: Path
) -> None:
    tree = reward_tree(scoring, tmp_path) | {
        "tie": tie,
        "margin_scale": margin_scale,
        "normalize_on": normalize_on,
        "microbatch_tokens": microbatch_tokens,
        "epochs": 3,
    }
    rows, report = run_stage(RewardRecipe, reward.train, tree, tmp_path / "run")

    used = [
        ranking for ranking in TRAIN if WEIGHTS.get(ranking.labeler, 1.0) and (tie == "half" or any(ordered(ranking)))
    ]
    some_order = [ranking for ranking in used if any(ordered(ranking))]
    assert len(used) == (6 if tie == "half" else 5)
    network = Network(scoring, AutoModelForSequenceClassification)
    adamw = AdamW(network.network, **{key: OPTIMIZER[key] for key in AdamW.SETTINGS})
    assert len(rows) == 3
    for row in rows:
        found = scores(network, used)
        of = {ranking.id: {text: found[ranking.prompt.id, text] for text in best_ranks(ranking)} for ranking in used}
        losses = [
            ranking_nll(of[ranking.id], ranking, tie=tie, margin=margin_scale * (ranking.strength or 0.0))
            for ranking in used
        ]
        gaps = [
            np.array([(of[ranking.id][better] - of[ranking.id][worse]).item() for better, worse in ordered(ranking)])
            for ranking in some_order
        ]
        loss = weighted_mean(losses, used)
        norm = adamw.step(loss, OPTIMIZER["learning_rate"])
        assert row["reward/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["reward/accuracy"] == pytest.approx(weighted_mean([(gap > 0).mean() for gap in gaps], some_order))
        assert row["reward/margin"] == pytest.approx(weighted_mean([gap.mean() for gap in gaps], some_order), rel=1e-3)
        assert row["reward/grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert row["reward/learning_rate"] == OPTIMIZER["learning_rate"]
        assert row["data/left_out"] == len(TRAIN) - len(used)
    assert_moved_alike(tmp_path / "run", network.network, scoring)
    assert (report["rankings"], report["left_out"]) == (len(used), len(TRAIN) - len(used))

    with torch.no_grad():
        raw = [score.item() for score in scores(network, used if normalize_on == "train" else HELD_OUT).values()]
    saved = json.loads((tmp_path / "run" / "model" / "normalization.json").read_text(encoding="utf-8"))
    assert saved["reference"] == f"distinct {normalize_on} responses"
    assert saved["count"] == len(raw) == {"train": 11, "validation": 9}[normalize_on]
    assert (saved["mean"], saved["scale"]) == pytest.approx((np.mean(raw), np.std(raw)), rel=1e-3)
    assert_measured_by_hand(report, network)


def assert_measured_by_hand(report: dict[str, Any], network: Network) -> None:
    """A reward model's report, on the held-out prompts: every ordered pair of every ranking counts alike."""
    with torch.no_grad():
        score = {key: value.item() for key, value in scores(network, HELD_OUT).items()}
    pairs = [(ranking.prompt.id, better, worse) for ranking in HELD_OUT for better, worse in ordered(ranking)]
    assert (report["held_out_pairs"], report["held_out_prompts"]) == (len(pairs), 3) == (10, 3)
    margins = np.array([score[prompt, better] - score[prompt, worse] for prompt, better, worse in pairs])
    right = (margins > 0).astype(float)
    prompts = [prompt for prompt, _, _ in pairs]
    won = [right[[prompt == one for prompt in prompts]].sum() for one in dict.fromkeys(prompts)]
    estimate = ratio_estimate(won, [prompts.count(one) for one in dict.fromkeys(prompts)], seed=0, share=True)
    assert 0 < right.mean() < 1
    assert report["accuracy"] == pytest.approx(right.mean())
    assert (report["accuracy_low"], report["accuracy_high"]) == pytest.approx((estimate.low, estimate.high))
    assert report["log_loss"] == pytest.approx(np.mean([softplus(-margin) for margin in margins]), rel=1e-3)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.minimum((20 * (confidence - 0.5)).astype(int), 9)
    apart = [abs(confidence[bins == one].mean() - right[bins == one].mean()) * (bins == one).sum() for one in set(bins)]
    assert report["calibration_error"] == pytest.approx(sum(apart) / len(pairs), rel=1e-3)
    longer = [np.sign(len(better.split()) - len(worse.split())) / 2 + 0.5 for _, better, worse in pairs]
    assert 0 < np.mean(longer) < 1
    assert report["longer_wins"] == pytest.approx(np.mean(longer))
    # about the oak, of a and b: first, second, alike; of a and c: first, second, first; of b and c likewise
    assert report["agreement"] == pytest.approx((0 + 0.5 + 0.5 + 2 * (0 + 1 + 0)) / 9)


def test_every_judgement_is_met_once_an_epoch(scoring: str, tmp_path: Path) -> None:
    """With steps that go nowhere and a prompt to a batch, the losses of an epoch are those of the prompts."""
    train = [
        ranked("tea", "train", "ann", a=1, b=2),
        ranked("tea", "train", "bob", a=2, b=1),
        ranked("the sea", "train", "ann", c=1, b=2),
        ranked("rain", "train", "", d=1, a=2),
        ranked("mice", "train", "bob", a=1, d=2),
        ranked("ash", "train", "cat", d=1, b=2),
    ]
    tree = reward_tree(scoring, tmp_path) | {
        "data": written(tmp_path / "pairs.jsonl", [*train, *HELD_OUT]) | {"tags": ["split"]},
        "batch_responses": 3,
        "epochs": 3,
        "optimizer": {"learning_rate": 1e-12},
    }
    rows, _ = run_stage(RewardRecipe, reward.train, tree, tmp_path / "run")
    network = Network(scoring, AutoModelForSequenceClassification)
    with torch.no_grad():
        found = scores(network, train)
    of = [{text: found[ranking.prompt.id, text] for text in best_ranks(ranking)} for ranking in train]
    losses = [ranking_nll(of_one, ranking, tie="half", margin=0.0) for of_one, ranking in zip(of, train, strict=True)]
    by_prompt = [weighted_mean(losses[:2], train[:2]), *losses[2:]]
    met = np.array([row["reward/loss"] for row in rows]).reshape(3, 5)
    for epoch in met:
        assert sorted(epoch) == pytest.approx(sorted(loss.item() for loss in by_prompt), rel=1e-4)
    assert len({tuple(order) for order in met.argsort(1)}) > 1


# direct preference optimisation


def response_logprob(network: Network, prompt: Prompt, text: str, temperature: float) -> Tensor:
    return network.logprobs(network.opened(prompt.messages), network.said(text), temperature=temperature).sum()


def response_logprobs(network: Network, rankings: Sequence[Ranking], temperature: float) -> dict[Any, Tensor]:
    return {key: response_logprob(network, prompt, key[1], temperature) for key, prompt in distinct(rankings).items()}


def implied(now: dict[Any, Tensor], before: dict[Any, Tensor], rankings: Sequence[Ranking], beta: float) -> Any:
    """Rafailov et al. 2023: beta times the log-ratios of the chosen and of the rejected response of every pair."""
    pairs = [(ranking.prompt.id, *pair) for ranking in rankings for pair in ordered(ranking)]
    chosen = torch.stack([beta * (now[prompt, better] - before[prompt, better]) for prompt, better, _ in pairs])
    rejected = torch.stack([beta * (now[prompt, worse] - before[prompt, worse]) for prompt, _, worse in pairs])
    return chosen, rejected


@pytest.mark.parametrize(
    ("beta", "label_smoothing", "temperature", "microbatch_tokens"), [(0.4, 0.2, 1.3, 4096), (0.9, 0.0, 0.6, 64)]
)
def test_dpo_is_the_one_done_by_hand(
    beta: float, label_smoothing: float, temperature: float, microbatch_tokens: int, tmp_path: Path
) -> None:
    tree = {
        "model": "tiny",
        "data": written(tmp_path / "data.jsonl", [*TRAIN, *HELD_OUT]) | {"tags": ["split"]},
        "holdout": {"tag": "split", "value": "test"},
        "epochs": 3,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "temperature": temperature,
        "microbatch_tokens": microbatch_tokens,
        "optimizer": OPTIMIZER,
    }
    rows, report = run_stage(DPORecipe, dpo.train, tree, tmp_path / "run")

    network = Network(locate("tiny"))
    adamw = AdamW(network.network, **{key: OPTIMIZER[key] for key in AdamW.SETTINGS})
    with torch.no_grad():
        before, held_out_before = (response_logprobs(network, some, temperature) for some in (TRAIN, HELD_OUT))
    assert len(rows) == 3
    for row in rows:
        now = response_logprobs(network, TRAIN, temperature)
        chosen, rejected = implied(now, before, TRAIN, beta)
        margin = chosen - rejected
        loss = (-(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)).mean()
        logprobs = [
            np.mean([now[ranking.prompt.id, pair[side]].item() for ranking in TRAIN for pair in ordered(ranking)])
            for side in (0, 1)
        ]
        norm = adamw.step(loss, OPTIMIZER["learning_rate"])
        assert row["dpo/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["dpo/accuracy"] == pytest.approx(0.5 if row is rows[0] else (margin > 0).double().mean().item())
        assert row["dpo/margin"] == pytest.approx(margin.mean().item(), rel=1e-3, abs=1e-4)
        assert row["dpo/chosen_reward"] == pytest.approx(chosen.mean().item(), rel=1e-3, abs=1e-4)
        assert row["dpo/rejected_reward"] == pytest.approx(rejected.mean().item(), rel=1e-3, abs=1e-4)
        assert row["dpo/chosen_logprob"] == pytest.approx(logprobs[0], rel=1e-4)
        assert row["dpo/rejected_logprob"] == pytest.approx(logprobs[1], rel=1e-4)
        assert row["policy/grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert row["policy/learning_rate"] == OPTIMIZER["learning_rate"]
        assert row["data/left_out"] == 2  # the two that order nothing
    assert_moved_alike(tmp_path / "run", network.network)

    with torch.no_grad():
        held_out = implied(response_logprobs(network, HELD_OUT, temperature), held_out_before, HELD_OUT, beta)
    right = (held_out[0] > held_out[1]).double()
    assert 0 < right.mean() < 1
    assert report["held_out_accuracy"] == pytest.approx(right.mean().item())
    assert (len(right), report["pairs"], report["left_out"]) == (10, 12, 2)
