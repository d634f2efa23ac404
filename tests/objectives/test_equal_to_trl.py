"""The losses are TRL's own, to the last digits of fp64, and so are their gradients: on the same tensors.

TRL's losses are written inside its trainers. Here the trainers' own methods are called, on an object that holds what
they ask for and with a model that gives prepared log-probabilities. TRL needs an environment of its own:
`python -m venv /somewhere && /somewhere/bin/pip install trl==1.16 pytest hypothesis`, and what Palate needs.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.objectives.direct import dpo_loss, ipo_loss, kto_loss, kto_reference_point

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's own
    trl = pytest.importorskip("trl", minversion="1.16")
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.kto_trainer import KTOTrainer

PAIRS, WIDTH = 5, 7
SEEDS = pytest.mark.parametrize("seed", range(4))


class Batch:
    """Random log-probabilities of B responses of different lengths, at masked tokens [B, T - 1] and summed."""

    def __init__(self, rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, WIDTH, (rows,), generator=generator)
        self.mask = torch.arange(WIDTH)[None] >= WIDTH - lengths[:, None]  # [B, T], never the first token
        self.lengths = lengths.double()
        self.logprobs = -3 * torch.rand(rows, WIDTH - 1, generator=generator, dtype=torch.float64)
        self.logprobs.requires_grad_()
        self.ref = -3 * torch.rand(rows, generator=generator, dtype=torch.float64) * lengths

    def at_mask(self) -> Tensor:
        """As a model gives them, zero at what is not of the response."""
        return torch.where(self.mask[:, 1:], self.logprobs, 0.0)

    def summed(self) -> Tensor:
        return self.at_mask().sum(1)

    def gives(self) -> SimpleNamespace:
        """What TRL's fused head returns; beside the log-probabilities, what is only logged."""
        blank = torch.zeros_like(self.logprobs)
        return SimpleNamespace(log_probs=self.at_mask(), entropy=blank, mean_logits=blank, is_top1=blank.bool())


def trainer(**settings: Any) -> SimpleNamespace:
    """What the methods ask of themselves."""
    alone = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=alone,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def assert_same(ours: Tensor, theirs: Tensor, batch: Batch) -> None:
    """Loss, and gradient with respect to every token's log-probability."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    mine, its = (torch.autograd.grad(loss, batch.logprobs, retain_graph=True)[0] for loss in (ours, theirs))
    assert its.any()
    torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def of_pairs(batch: Batch, loss_type: str, beta: float) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss of chosen responses above and rejected ones below, and what it logs."""
    itself = trainer(
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )
    chosen, rejected = batch.ref.chunk(2)
    inputs = {
        "input_ids": torch.ones(2 * PAIRS, WIDTH, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, WIDTH, dtype=torch.long),
        "completion_mask": batch.mask.long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = DPOTrainer._compute_loss(itself, lambda **_: batch.gives(), inputs, False)
    return loss, {name: numbers[-1] for name, numbers in itself._metrics["train"].items()}


@SEEDS
@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_dpo(seed: int, beta: float) -> None:
    batch = Batch(2 * PAIRS, seed)
    theirs, told = of_pairs(batch, "sigmoid", beta)
    ours, metrics = dpo_loss(*batch.summed().chunk(2), *batch.ref.chunk(2), beta=beta)
    assert_same(ours, theirs, batch)
    for name, its in (
        ("dpo/margin", "rewards/margins"),
        ("dpo/accuracy", "rewards/accuracies"),
        ("dpo/chosen_reward", "rewards/chosen"),
        ("dpo/rejected_reward", "rewards/rejected"),
        ("dpo/chosen_logprob", "logps/chosen"),
        ("dpo/rejected_logprob", "logps/rejected"),
    ):
        assert metrics[name].item() == pytest.approx(told[its]), name


@SEEDS
@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_ipo_of_means_over_tokens_as_trl_has_it(seed: int, beta: float) -> None:
    """TRL averages over the length of each response; ours is the same function, of sums."""
    batch = Batch(2 * PAIRS, seed)
    theirs, _ = of_pairs(batch, "ipo", beta)
    means = batch.summed() / batch.mask.sum(1), batch.ref / batch.mask.sum(1)
    ours, _ = ipo_loss(*means[0].chunk(2), *means[1].chunk(2), beta=beta)
    assert_same(ours, theirs, batch)
    of_sums, _ = ipo_loss(*batch.summed().chunk(2), *batch.ref.chunk(2), beta=beta)
    assert not torch.isclose(of_sums, theirs)


@SEEDS
@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_ipo_of_responses_of_one_token(seed: int, beta: float) -> None:
    """There sum and mean are one number."""
    batch = Batch(2 * PAIRS, seed)
    batch.mask = (torch.arange(WIDTH) == WIDTH - 1).expand(2 * PAIRS, WIDTH)
    theirs, _ = of_pairs(batch, "ipo", beta)
    ours, _ = ipo_loss(*batch.summed().chunk(2), *batch.ref.chunk(2), beta=beta)
    assert_same(ours, theirs, batch)


@SEEDS
@pytest.mark.parametrize(("beta", "weights"), [(0.1, (1.0, 1.0)), (0.7, (1.3, 0.6))])
@pytest.mark.parametrize("better", [-2.0, 2.0])
def test_kto(seed: int, beta: float, weights: tuple[float, float], better: float) -> None:
    """With a reference point above zero, and with one that would be below."""
    batch, others = Batch(PAIRS, seed), Batch(PAIRS, 100 + seed)
    others.ref = others.summed().detach() - better
    up = torch.tensor([True, False, True, True, False])
    itself = trainer(
        calculate_KL=True, loss_type="kto", beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1]
    )
    itself._compute_kl_logps = lambda model, inputs: KTOTrainer._compute_kl_logps(itself, model, inputs)
    ids = torch.ones(PAIRS, WIDTH, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "attention_mask": ids,
        "completion_mask": batch.mask.long(),
        "label": up,
        "ref_logps": batch.ref,
        "KL_input_ids": 2 * ids,
        "KL_attention_mask": ids,
        "KL_completion_mask": others.mask.long(),
        "ref_KL_logps": others.ref,
    }

    def model(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return (batch if int(input_ids[0, 0]) == 1 else others).gives()

    theirs = KTOTrainer._compute_loss(itself, model, inputs, False)
    point = kto_reference_point(others.summed() - others.ref)
    ours, metrics = kto_loss(
        batch.summed(),
        batch.ref,
        up,
        reference_point=point,
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    assert_same(ours, theirs, batch)
    told = itself._metrics["train"]
    assert point.item() == pytest.approx(max(0.0, better)) == pytest.approx(told["kl"][-1])
    share = metrics["kto/desirable"].item()
    assert metrics["kto/desirable_reward"].item() / share == pytest.approx(told["rewards/chosen"][-1])
    assert metrics["kto/undesirable_reward"].item() / (1 - share) == pytest.approx(told["rewards/rejected"][-1])
