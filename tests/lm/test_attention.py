"""Attention that is computed in fp64 and differentiated in fp32, beside torch's own in fp64; and run by run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.lm.adapters import LoRA
from palate.lm.batch import Layout, Sequences
from palate.lm.decoder import packed_attention, unpaired
from palate.lm.families import Rule
from palate.lm.kernels.attention import attention

Operands = tuple[Tensor, Tensor, Tensor]


def operands(heads: int, keys: int) -> Operands:
    """[3, heads, 7, 8] queries, [3, 2, keys, 8] keys and values."""
    numbers = torch.Generator().manual_seed(0)
    sizes = (heads, 7), (2, keys), (2, keys)
    q, k, v = (torch.randn(3, *size, 8, generator=numbers).requires_grad_() for size in sizes)
    return q, k, v


def seen(keys: int) -> Tensor:
    """[3, 1, 7, keys], the last queries may see the last key; the prompts are of three lengths."""
    own = torch.full((7, 7), -torch.inf).triu(1).expand(3, 1, 7, 7)
    before = torch.arange(keys - 7) >= torch.tensor([keys - 7, 2, 1])[:, None]
    return torch.cat(
        [torch.zeros(before.shape).masked_fill(before, -torch.inf)[:, None, None].expand(3, 1, 7, -1), own], -1
    )


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("keys", [7, 12])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_results_are_those_of_fp64_and_gradients_close(heads: int, keys: int, scale: float | None) -> None:
    mask = seen(keys) if keys > 7 else None
    narrow = operands(heads, keys)
    wide = tuple(x.detach().double().requires_grad_() for x in narrow)
    out = attention(*narrow, mask=mask, scale=scale, cap=None, dtype=torch.float64)
    exact = F.scaled_dot_product_attention(
        *wide,
        attn_mask=None if mask is None else mask.double(),
        is_causal=mask is None,
        scale=scale,
        enable_gqa=heads > 2,
    )
    assert torch.equal(out, exact.float())
    with torch.no_grad():
        assert torch.equal(attention(*narrow, mask=mask, scale=scale, cap=None, dtype=torch.float64), out)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * upstream).sum().backward()
    (exact * upstream).sum().backward()
    for mine, its in zip(narrow, wide, strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        torch.testing.assert_close(mine.grad.double(), its.grad, atol=3e-6, rtol=0)


def test_what_waits_for_the_gradient_is_fp32() -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention(*operands(6, 12), mask=seen(12), scale=None, cap=None, dtype=torch.float64)
    assert {x.dtype for x in kept} == {torch.float32}
    assert sum(x.numel() for x in kept) == 3 * 8 * (6 * 7 * 2 + 2 * 2 * 12) + 3 * 6 * 7 + 3 * 7 * 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_its_bits_whatever_is_beside_it(dtype: torch.dtype) -> None:
    """Where products are bf16, and its result will be rounded again: alone, and padded beside others."""
    numbers = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(40, heads, 50, 64, generator=numbers) for heads in (6, 2, 2))
    causal = torch.full((50, 50), -torch.inf).triu(1)[None, None]
    whole = attention(q, k, v, mask=causal, scale=None, cap=None, dtype=dtype)
    lengths = range(10, 50)
    alone = [
        attention(*(x[row : row + 1, :, :length] for x in (q, k, v)), mask=None, scale=None, cap=None, dtype=dtype)
        for row, length in enumerate(lengths)
    ]
    pairs = [(one[0], whole[row, :, :length]) for row, (one, length) in enumerate(zip(alone, lengths, strict=True))]
    different = sum(int((one != beside).sum()) for one, beside in pairs)
    assert different <= 2 if dtype == torch.float64 else different > 1000, "or fp64 would not be needed"


def uneven() -> Sequences:
    """Prompts shared by three and by two and by none, one empty; two pairs of equal shape, one response empty."""
    prompts, responses = [9, 5, 9, 5, 0, 9, 5, 6, 30, 11], [7, 4, 3, 4, 6, 12, 4, 0, 2, 6]
    groups = [0, 1, 0, 1, 2, 0, 3, 4, 5, 6]
    return Sequences.pack([[1] * x for x in prompts], [[1] * x for x in responses], group_ids=groups)


def each_alone(sequences: Sequences, layout: Layout, rule: Rule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every sequence by itself, all its scores at once; a shared prompt is computed with each."""
    out = torch.zeros_like(q)
    for row, length in enumerate(sequences.lengths.tolist()):
        places = torch.arange(length)
        rows = layout.row_of(torch.full((length,), row), places, sequences.prompt_lengths)
        queries, keys, values = (x[rows].transpose(0, 1) for x in (q, k, v))
        keys, values = (x.repeat_interleave(3, dim=0) for x in (keys, values))
        scores = queries @ keys.transpose(1, 2) * (rule.scale or q.shape[-1] ** -0.5)
        scores = scores if rule.cap is None else rule.cap * (scores / rule.cap).tanh()
        back = places[:, None] - places
        unseen = (back < 0) | (back >= (rule.window or length))
        met = scores.masked_fill(unseen, -torch.inf).softmax(-1) @ values
        out = out.index_copy(0, rows, met.transpose(0, 1))
    return out


@pytest.mark.parametrize("rule", [Rule(), Rule(window=4), Rule(scale=0.3, window=10), Rule(cap=2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_run_by_run_it_is_what_every_sequence_has_alone(rule: Rule, dtype: torch.dtype, kind: str) -> None:
    """Runs of equal lengths, as a processor has them, and those that a GPU pads."""
    sequences, numbers = uneven(), torch.Generator().manual_seed(0)
    layout = Layout.of(sequences, kind=kind)
    assert layout.even == (kind == "cpu")
    sizes = (len(layout.tokens), 6, 8), (len(layout.tokens), 2, 8), (len(layout.tokens), 2, 8)
    operands = [torch.randn(*size, generator=numbers).requires_grad_() for size in sizes]
    mine = packed_attention(layout, dtype)(0, rule, *operands)
    wide = [x.detach().double().requires_grad_() for x in operands]
    exact = each_alone(sequences, layout, rule, *wide)
    torch.testing.assert_close(mine.double(), exact, atol=2e-6, rtol=0)
    upstream = torch.randn(mine.shape, generator=numbers)
    # the rows of a prompt that is shared were written by each that shares it: its gradient is one of theirs
    found = torch.autograd.grad((mine * upstream).sum(), operands)
    expected = torch.autograd.grad((exact * upstream).sum(), wide)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=5e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(packed_attention(layout, dtype)(0, rule, *operands), mine)


def test_without_a_twin_it_is_computed_as_it_is_carried() -> None:
    layout, numbers = Layout.of(uneven()), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(len(layout.tokens), heads, 8, generator=numbers) for heads in (6, 2, 2))
    exact = packed_attention(layout, torch.bfloat16)(0, Rule(), q, k, v)
    with unpaired():
        found = packed_attention(layout, torch.bfloat16)(0, Rule(), q, k, v)
    narrow = packed_attention(layout, torch.float32)(0, Rule(), q, k, v)
    assert torch.equal(found, narrow)
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_run_by_run_nothing_waits_for_the_gradient_but_the_rows(dtype: torch.dtype) -> None:
    layout = Layout.of(uneven())
    rows = len(layout.tokens)
    q, k, v = (torch.randn(rows, heads, 8).requires_grad_() for heads in (6, 2, 2))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        packed_attention(layout, dtype)(0, Rule(), q, k, v)
    assert {x.dtype for x in kept} == {torch.float32}
    assert sum(x.numel() for x in kept) == rows * (2 * 6 * 8 + 2 * 2 * 8 + 6)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_gradients_of_an_adapter_in_fp64_are_close(stored: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(0)
    adapter = LoRA(24, 10, rank=3, alpha=6.0, rank_stabilized=False, dtype=torch.bfloat16)
    with torch.no_grad():
        adapter.lora_A.copy_(torch.randn(3, 24, generator=numbers))
        adapter.lora_B.copy_(torch.randn(10, 3, generator=numbers))
    x = torch.randn(7, 24, generator=numbers).requires_grad_()
    product = torch.randn(7, 10, generator=numbers).to(stored).requires_grad_()
    upstream = torch.randn(7, 10, generator=numbers)
    learned = (x, product, adapter.lora_A, adapter.lora_B)
    mine = torch.autograd.grad((adapter(x, product) * upstream).sum(), learned)
    wide = [each.detach().double().requires_grad_() for each in learned]
    exact = wide[1] + 2.0 * wide[0] @ wide[2].T @ wide[3].T
    its = torch.autograd.grad((exact * upstream).sum(), wide)
    assert torch.equal(adapter(x, product), exact.float())
    for one, other, tensor in zip(mine, its, learned, strict=True):
        assert one.dtype == tensor.dtype
        torch.testing.assert_close(one.double(), other.to(tensor.dtype).double(), atol=2e-5, rtol=1e-5)
