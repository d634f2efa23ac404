"""Products in half precision: rounded operands, sums in fp32, and for the unembedding the sums themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from palate.lm.decoder import TokenHead
from palate.lm.kernels import products
from palate.lm.kernels.products import Product, mm, mm_of_rows, packed, rounded, sums
from palate.lm.logprobs import chosen_logprobs
from palate.lm.projection import Projection, operands_of

HALF = torch.bfloat16
ULP = 2.0**-7
"""Of bf16: at most so much lies between two neighbours, relative to either."""


class Halving(nn.Module):
    """An adapter."""

    def forward(self, x: Tensor, product: Tensor) -> Tensor:
        return product / 2


def exact(rows: Tensor, weight: Tensor) -> Tensor:
    """The product of the rounded operands in fp64."""
    return rows.to(HALF).double() @ weight.detach().to(HALF).double().T


def test_a_rounded_product_is_the_exact_one_rounded_once(rows: Tensor, linear: Projection) -> None:
    expected = exact(rows, linear.weight)
    for got in (
        rounded(rows.to(HALF), linear.weight.detach().to(HALF)),
        packed(linear.weight.detach().to(HALF))(rows.to(HALF)),
        linear(rows),
    ):
        assert got.dtype == HALF
        assert ((got.double() - expected).abs() <= ULP / 2 * expected.abs() + 1e-5).all()


def test_sums_are_not_rounded(rows: Tensor, linear: Projection) -> None:
    got = sums(rows.to(HALF), linear.weight.detach().to(HALF).T)
    torch.testing.assert_close(got.double(), exact(rows, linear.weight), atol=1e-5, rtol=1e-6)
    assert not torch.equal(got, got.to(HALF).float())


@pytest.fixture(params=[True, False])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whose products in fp32 are, however small."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param)
    monkeypatch.setattr(products, "LEAST_FOR_ONEDNN", 1)
    return bool(request.param)


def test_a_product_in_fp32_is_exact_whoever_computes_it(by_onednn: bool) -> None:
    """Whole or strided, the same row for all, one row or none."""
    numbers = torch.Generator().manual_seed(5)
    a, b = torch.randn(40, 96, generator=numbers), torch.randn(96, 72, generator=numbers)
    turned = a.T.contiguous().T, b.T.contiguous().T
    for left, right in (
        (a, b),
        turned,
        (a[::2, 1:], b[1:, ::3]),
        (a[:1].expand(5, -1), b),
        (a, b[:, :1].expand(-1, 3)),
    ):
        torch.testing.assert_close(mm(left, right).double(), left.double() @ right.double(), atol=1e-4, rtol=0)
        turned_back = mm_of_rows(left.T, right)
        torch.testing.assert_close(turned_back.double(), left.double() @ right.double(), atol=1e-4, rtol=0)
    assert mm(a[:0], b).shape == (0, 72)


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("sizes", [(96, 72), (72, 96), (96, 96)])
def test_a_gradient_of_a_weight_in_bf16_is_rounded_once(
    sizes: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "has_amx", lambda: has)
    numbers = torch.Generator().manual_seed(5)
    grad, x = (torch.randn(30, size, generator=numbers).to(HALF) for size in sizes)
    found, expected = mm_of_rows(grad, x), grad.double().T @ x.double()
    assert (found.dtype, found.shape) == (HALF, sizes)
    assert ((found.double() - expected).abs() <= ULP / 2 * expected.abs() + 1e-5).all()


def test_gradients_of_a_product_in_fp32(by_onednn: bool) -> None:
    """Through a projection that learns, one that does not, and for rows that ask for none."""
    numbers = torch.Generator().manual_seed(6)
    x, weight, upper = (torch.randn(*size, generator=numbers) for size in ((30, 96), (72, 96), (30, 72)))
    exact = {"x": upper.double() @ weight.double(), "weight": upper.double().T @ x.double()}
    for asked in (["x", "weight"], ["x"], ["weight"]):
        learning = {"x": x.clone(), "weight": weight.clone()}
        for name in asked:
            learning[name].requires_grad_(True)
        product = rounded(**learning)
        torch.testing.assert_close(product.detach().double(), x.double() @ weight.double().T, atol=1e-4, rtol=0)
        for name, grad in zip(asked, torch.autograd.grad(product, [learning[n] for n in asked], upper), strict=True):
            torch.testing.assert_close(grad.double(), exact[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "avx512", "is_there", "its"),
    [
        ("AMD EPYC 9755", True, True, True),
        ("AMD EPYC 7R13", False, True, False),
        ("Intel(R) Xeon(R) Platinum 8488C", True, True, False),
        ("AMD EPYC 9755", True, False, False),
    ],
)
def test_whose_fp32_products_are_quick(
    monkeypatch: pytest.MonkeyPatch, name: str, avx512: bool, is_there: bool, its: bool
) -> None:
    """And a small one stays MKL's, for which nothing has to be written first."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx512_f": avx512})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: is_there)
    assert products.prefers_onednn.__wrapped__() == its
    monkeypatch.setattr(products, "prefers_onednn", lambda: its)
    large, small = torch.zeros(256, 256), torch.zeros(64, 256)
    assert products._is_onednns(large, large) == its
    assert not products._is_onednns(small, large)
    assert not products._is_onednns(large.double(), large.double())


@pytest.mark.parametrize("learns", [True, False])
def test_gradients_of_a_rounded_product(rows: Tensor, linear: Projection, learns: bool) -> None:
    """Those of hardware: operands rounded, the upper gradient as well, the sums rounded once more."""
    linear.weight.requires_grad_(learns)
    rows.requires_grad_(True)
    upper = torch.randn(7, 40, generator=torch.Generator().manual_seed(3)).to(HALF)
    linear(rows).backward(upper)
    assert rows.grad is not None
    if not learns:
        assert linear.weight.grad is None
        return
    assert linear.weight.grad is not None
    expected = upper.double() @ linear.weight.detach().to(HALF).double()
    assert ((rows.grad.double() - expected).abs() <= ULP * expected.abs() + 1e-4).all()
    expected = upper.double().T @ rows.detach().to(HALF).double()
    assert ((linear.weight.grad.double() - expected).abs() <= ULP * expected.abs() + 1e-4).all()


@pytest.mark.parametrize("has", [True, False])
def test_logits_of_a_half_precision_model_are_not_rounded(
    rows: Tensor, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their operands are, where hardware gives the sums in fp32; sampling, training and the gradient alike."""
    monkeypatch.setattr(products, "has_amx", lambda: has)
    embeddings, tokens, scaled = nn.Embedding(40, 96), torch.arange(7), rows / 0.7
    head = TokenHead(embeddings, HALF, tied=True)
    weight = embeddings.weight.detach()
    with torch.no_grad():
        logits = head(rows, temperature=0.7)
    rounds = not torch.allclose(logits, scaled @ weight.T, atol=1e-4)
    assert rounds <= has, "no such hardware, and so exact"
    operands = [x.to(HALF).float() if rounds else x for x in (scaled, weight)]
    torch.testing.assert_close(logits, operands[0] @ operands[1].T, atol=1e-4, rtol=1e-6)
    assert not torch.equal(logits, logits.to(HALF).float())
    rows.requires_grad_(True)
    chosen = head(rows, tokens, temperature=0.7)
    expected = logits.log_softmax(-1)[torch.arange(7), tokens]
    torch.testing.assert_close(chosen.detach(), expected, atol=1e-4, rtol=0)
    plain = (rows / 0.7 @ embeddings.weight.T).log_softmax(-1)[torch.arange(7), tokens]
    slopes = [torch.autograd.grad(x.sum(), (rows, embeddings.weight)) for x in (chosen, plain)]
    for mine, its in zip(*slopes, strict=True):
        assert torch.cosine_similarity(mine.flatten(), its.flatten(), dim=0) > 0.9999
        assert torch.allclose(mine, its, atol=1e-4) or rounds
    head.adapter = Halving()
    drawn_from = head(rows, temperature=0.7).log_softmax(-1)[torch.arange(7), tokens]
    torch.testing.assert_close(head(rows, tokens, temperature=0.7), drawn_from, atol=1e-5, rtol=0)


def test_the_switch_is_turned_for_the_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """And back, come what may; a model in fp32 never turns it."""
    monkeypatch.setattr(products, "has_amx", lambda: True)
    switch, before = torch.backends.mkldnn.matmul, "ieee"
    switch.fp32_precision = before
    for broken in (torch.zeros(3, 4), torch.zeros(2, 4)):
        with contextlib.suppress(RuntimeError), products.rounding(HALF):
            assert switch.fp32_precision == "bf16"
            broken @ torch.zeros(3, 2)
    assert switch.fp32_precision == before
    with products.rounding(torch.float32):
        assert switch.fp32_precision == before
    seen: list[str] = []
    plain = products.mm
    monkeypatch.setattr(products, "mm", lambda *given: (seen.append(switch.fp32_precision), plain(*given))[1])
    x, weight = torch.randn(7, 24), torch.randn(40, 24)
    for dtype, its in ((torch.float32, before), (HALF, "bf16")):
        seen.clear()
        chosen_logprobs(x.requires_grad_(True), weight, torch.arange(7), temperature=1.0, dtype=dtype).sum().backward()
        sums(x, weight.T, dtype).sum().backward()
        assert seen == [its] * 4
    assert switch.fp32_precision == before


def test_logprobs_of_a_half_precision_weight_are_not_rounded(rows: Tensor, linear: Projection) -> None:
    """As on a GPU, where the unembedding's operands are bf16."""
    weight, tokens = linear.weight.detach().to(HALF).requires_grad_(True), torch.arange(7)
    rows = rows.to(HALF).float().requires_grad_(True)
    got = chosen_logprobs(rows, weight, tokens, temperature=1.0)
    expected = (rows @ weight.float().T).log_softmax(-1)[torch.arange(7), tokens]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-6)
    ours, plain = (torch.autograd.grad(each.sum(), rows, retain_graph=True)[0] for each in (got, expected))
    assert torch.cosine_similarity(ours.flatten(), plain.flatten(), dim=0) > 0.9999


@pytest.mark.parametrize("has", ["avx512_bf16", "amx_bf16", ""])
def test_what_multiplies_bf16(monkeypatch: pytest.MonkeyPatch, has: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, has: True})
    assert products.multiplies_bf16.__wrapped__("cpu") == bool(has)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bool(has) or including_emulation)
    assert products.multiplies_bf16.__wrapped__("cuda") == bool(has)


def test_a_row_has_the_same_bits_whatever_else_is_in_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning or not, alone or among so many rows that other kernels would be quicker; sums long enough to differ."""
    numbers = torch.Generator().manual_seed(4)
    linear, rows = Projection(1536, 256, HALF), torch.randn(600, 1536, generator=numbers)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(256, 1536, generator=numbers))
    learning = linear(rows)
    assert learning.requires_grad
    with torch.no_grad():
        for count in (1, 2, 7, 200, len(rows)):
            assert torch.equal(linear(rows[:count]), learning[:count])
    assert products.is_row_invariant()
    monkeypatch.setattr(products, "packed", lambda weight: lambda x: (x + len(x)) @ weight.T)
    assert not products.is_row_invariant.__wrapped__()


@pytest.mark.parametrize(
    ("otherwise", "expected"),
    [
        ((), 33),
        (range(600, 800), 1024),
        ((1025,), 2048),
        (range(33, 3000), 4096),
        (range(2900, 3100), 4096),
        ((6000,), None),
        (range(33, 9000), None),
    ],
)
def test_calls_whose_sums_have_another_order_are_found(
    otherwise: Sequence[int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AMX's do at some numbers of rows: one result in ten thousand is rounded the other way."""

    def whole(weight: Tensor) -> Product:
        def product(x: Tensor) -> Tensor:
            found = x.float().round() @ weight.T.float().round()  # exact
            rare = (x[:, :1].float() * 1000).round() % 100 == 7
            return torch.where(rare & (torch.arange(100) == 5), found + 1, found) if len(x) in otherwise else found

        return product

    monkeypatch.setattr(products, "_whole", whole)
    assert products.least_of_one_order.__wrapped__(16, 100, 1) == expected


@pytest.mark.parametrize(
    ("least", "count", "expected"),
    [
        (33, 1200, [1200]),
        (1024, 1200, [1200]),
        (1024, 1024, [1024]),
        (1024, 600, [1024]),
        (1024, 100, [32, 32, 32, 4]),
        (None, 97, [32, 32, 32, 2]),
        (None, 1, [2]),
        (None, 32, [32]),
        (None, 0, [0]),
    ],
)
def test_a_product_is_called_with_numbers_of_rows_that_agree(
    least: int | None, count: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(products, "_whole", lambda weight: lambda x: (seen.append(len(x)), x @ weight.T)[1])
    monkeypatch.setattr(products, "multiplies_bf16", lambda device: True)
    monkeypatch.setattr(products, "least_of_one_order", lambda inputs, outputs, threads: least)
    x, weight = torch.randint(-3, 4, (count, 8)).to(HALF), torch.randint(-3, 4, (5, 8)).to(HALF)
    assert torch.equal(packed(weight)(x), x @ weight.T)
    assert seen == expected
    seen.clear()
    packed(weight.float())(x.float())
    assert seen == [count]


def test_hardware_that_multiplies_bf16_is_left_to_it(
    rows: Tensor, linear: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is none, fp32 multiplies what was rounded: the same numbers up to the order of the sums."""
    x, weight = rows.to(HALF), linear.weight.detach().to(HALF)
    seen: list[torch.dtype] = []
    plain = torch.nn.functional.linear

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(x.dtype)
        return plain(x, weight)

    monkeypatch.setattr(products.F, "linear", watched)
    results = []
    for has in (True, False):
        monkeypatch.setattr(products, "multiplies_bf16", lambda _, has=has: has)
        results.append(rounded(x, weight))
    assert seen == [HALF, torch.float32]
    assert ((results[0] - results[1]).abs() <= ULP * results[0].abs() + 1e-5).all()


def test_who_reads_rows_besides_the_product_is_given_them_unrounded() -> None:
    """An adapter, a hook and another module: they see what they always saw."""
    linear = Projection(20, 10, HALF)
    assert operands_of(linear) == HALF
    assert operands_of(nn.Linear(20, 10)) == torch.float32
    linear.adapter = Halving()
    assert operands_of(linear) == torch.float32
    linear.adapter = None
    handle = linear.register_forward_hook(lambda *_: None)
    assert operands_of(linear) == torch.float32
    handle.remove()
    assert operands_of(linear) == HALF
