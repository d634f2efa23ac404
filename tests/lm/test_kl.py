"""The exact divergence of two models' next tokens: by summation over the whole vocabulary, a few rows at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from palate.lm import logprobs as module
from palate.lm.batch import Sequences
from palate.lm.kernels.products import sums
from palate.lm.model import LanguageModel

Fresh = Callable[[], LanguageModel]
TEMPERATURE = 0.7


@pytest.fixture
def teacher(fresh: Fresh) -> LanguageModel:
    """The tiny model with other weights."""
    model = fresh()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    model.freeze_all()
    return model


def by_summation(model: LanguageModel, teacher: LanguageModel, sequences: Sequences) -> Tensor:
    """[B, T], sequence by sequence with all logits at once, in fp64 from the logits on."""
    rows = []
    for row in range(len(sequences)):
        alone = sequences.select(torch.tensor([row]))
        length = alone.tokens.shape[1]
        before = torch.arange(length - 1)

        def logp(each: LanguageModel, alone: Sequences = alone, before: Tensor = before) -> Tensor:
            hidden = each.hidden(alone, torch.zeros_like(before), before, None)
            return each.logits(hidden, temperature=TEMPERATURE).double().log_softmax(-1)

        ours, theirs = logp(model), logp(teacher).detach()
        kl = (ours.exp() * (ours - theirs)).sum(-1)
        inside = torch.cat([kl.new_zeros(1), kl]) * alone.mask[0]
        rows.append(torch.cat([inside, inside.new_zeros(sequences.tokens.shape[1] - length)]))
    return torch.stack(rows).float()


@pytest.mark.parametrize("kl_rows", [1, 3, 64])
def test_values_and_gradients_are_those_of_the_whole_sum(
    fresh: Fresh, teacher: LanguageModel, sequences: Sequences, kl_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KL_ROWS", kl_rows)
    model, plain = fresh(), fresh()
    weights = torch.linspace(-1, 2, sequences.mask.numel()).view(sequences.mask.shape)
    got, expected = model.kl(sequences, teacher, temperature=TEMPERATURE), by_summation(plain, teacher, sequences)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    assert (got[sequences.mask] > 1e-3).all()
    assert not got[~sequences.mask].any()
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, mine), its in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=2e-5, rtol=1e-3, msg=name)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_model_does_not_diverge_from_itself(fresh: Fresh, sequences: Sequences) -> None:
    model = fresh()
    model.kl(sequences, copy.deepcopy(model), temperature=TEMPERATURE).sum().backward()
    with torch.no_grad():
        assert model.kl(sequences, model, temperature=TEMPERATURE).abs().max() < 1e-6
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-4


def test_with_a_trunk_and_in_parts(fresh: Fresh, teacher: LanguageModel, sequences: Sequences) -> None:
    model = fresh()
    model.freeze(2)
    whole = model.kl(sequences, teacher, temperature=TEMPERATURE)
    trunk = model.trunk(sequences)
    for part in sequences.microbatches(12):
        kl = model.kl(part, teacher, temperature=TEMPERATURE, trunk=trunk)
        torch.testing.assert_close(kl, whole[part.rows, : kl.shape[1]], atol=2e-5, rtol=1e-4)


def test_gradients_of_sums_of_rounded_products() -> None:
    """Sums are exact up to fp32, and so are the gradients of what was rounded; the gradient itself is rounded once."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in ((5, 7), (7, 3)))
    upstream = torch.randn(5, 3, generator=generator).bfloat16().float()
    result = sums(a, b)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, a.float() @ b.float())
    result.backward(upstream)
    assert a.grad is not None
    assert b.grad is not None
    torch.testing.assert_close(a.grad.float(), (upstream @ b.float().T).bfloat16().float())
    torch.testing.assert_close(b.grad.float(), (a.float().T @ upstream).bfloat16().float())
