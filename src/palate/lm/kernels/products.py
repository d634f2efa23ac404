"""Matrix products with weights, in the layout and the precision that suit the moment.

Training multiplies thousands of rows and changes the weights; sampling multiplies a few dozen rows, again and again by
weights that stay. A processor reads a weight matrix in blocks, and for few rows the usual layout makes that the larger
part of the work: there the weights are kept packed (oneDNN's own layout), which takes 145 ms instead of 213 ms for all
products of a token in 64 sequences of SmolLM2-135M on two AVX2 cores, and half the time for 8 sequences.

In bf16 the operands are rounded, their products are summed in fp32, and the sums are rounded again, which is what
hardware does. What a probability is read from must not be: the unembedding asks for the sums. On a processor it gives
fp32 operands, and with AMX oneDNN rounds them on the way: a quarter to a half of the time (an Intel Xeon). Elsewhere
they stay as they are.

Sums in another order differ in their last bit, which now and then decides which way one is rounded to bf16; a few
layers later two passes over the same tokens are as far apart as rounding can bring them (0.019 nats a token between
sampling and training SmolLM2-135M). On a processor all bf16 products are those of the kernel for packed weights. With
AVX512 it adds up in one order whatever the number of rows. With AMX, ten times as fast, it chooses its order by that
number, and another one for a single row: so it is called with such numbers of rows alone as give the same bits, few
or very many. A processor without bf16 instructions takes thirty times as long for torch's bf16 kernels as for fp32;
there rounded operands are multiplied in fp32.

In fp32 torch multiplies with MKL, which does without AVX512 on a processor that is not Intel's. oneDNN does not: of
several hundred rows it makes twice as many products a second there, so what is large enough is its.

Left out: quantised products; the policy that samples is the policy that trains.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PACKED_ROWS = 256
"""Up to this many rows packed weights are faster on a processor; beyond it copying them costs next to nothing."""

LEAST_FOR_ONEDNN = 2**23
"""Multiplications below which a product is MKL's: oneDNN writes a kernel for every new shape, which takes 0.3 ms and
more, and gains 0.1 ms by this many (98 shapes of 500 to 700 rows on an EPYC of family 26)."""

FEW_ROWS = 32
"""From two rows to this many a bf16 product adds up in one order, as far as is known: two of AMX's tiles."""
PROBES = {
    4096: (4096, 6000),
    2048: (2048, 2049, 3000),
    1024: (1024, 1025, 1200, 1500, 1865),
    33: (33, 64, 100, 300, 700),
}
"""From so many rows on, perhaps, and in any number: what is tried to find out."""
LOOKED_AT = 2**20
"""Results in which another order of sums shows: it did in one of 10,000 to 30,000."""

Product = Callable[[Tensor], Tensor]


@cache
def multiplies_bf16(device: str) -> bool:
    """Whether the hardware has instructions for it; ``device`` is a type of devices, ``cpu`` or ``cuda``."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN is the quicker one in fp32: it uses AVX512 wherever there is, and MKL on Intel's alone."""
    about = torch.cpu.get_capabilities()
    its = bool(about.get("avx512_f")) and "intel" not in str(about.get("cpu_name", "")).lower()
    return its and torch.backends.mkldnn.is_available()


@cache
def has_amx() -> bool:
    """Whether a processor multiplies tiles of bf16: fp32 operands as well, rounded on the way and summed in fp32."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and torch.backends.mkldnn.is_available()


_SWITCH = threading.Lock()


@contextmanager
def rounding(dtype: torch.dtype) -> Iterator[None]:
    """Products of fp32 operands may round them to ``dtype`` meanwhile, their sums stay fp32.

    oneDNN has one switch for all of a process: it is turned for the one product, and by one thread at a time, or it
    might stay turned.
    """
    if dtype == torch.float32 or not has_amx():
        yield
        return
    with _SWITCH:
        switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before, switch.fp32_precision = switch.fp32_precision, "bf16"
        try:
            yield
        finally:
            switch.fp32_precision = before


def mm(a: Tensor, b: Tensor) -> Tensor:
    """[N, K] @ [K, M] -> [N, M] in the dtype of both, by whichever kernel is quick; not differentiable."""
    if not _is_onednns(a, b):
        return torch.mm(a, b)
    weight = b.T if b.is_contiguous() or b.T.is_contiguous() else b.T.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], "")
    return result


def mm_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """[N, K].T @ [N, M] -> [K, M], strided perhaps: the gradient of a weight. Not differentiable.

    oneDNN copies what it is given turned; that is the narrower one. In bf16 with AMX that is copied here, which is
    quicker: 6.6 ms instead of 10.4 for gate and up of 1,896 rows of SmolLM2-135M in one thread of a Xeon.
    """
    if a.dtype == torch.bfloat16 and a.device.type == "cpu":
        if not has_amx():
            return rounded(a.T, b.T)
        return torch.mm(b.T.contiguous(), a).T if a.shape[1] > b.shape[1] else torch.mm(a.T.contiguous(), b)
    return mm(b.T, a).T if a.shape[1] > b.shape[1] and _is_onednns(b.T, a) else mm(a.T, b)


def _is_onednns(a: Tensor, b: Tensor) -> bool:
    large = a.numel() * b.shape[1] >= LEAST_FOR_ONEDNN
    return large and a.dtype == torch.float32 and a.device.type == "cpu" and prefers_onednn()


@cache
def is_row_invariant() -> bool:
    """Whether a processor's bf16 products give a row the same bits whatever the number of rows; tried on a few."""
    numbers = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 1536, generator=numbers).bfloat16() for rows in (8 * PACKED_ROWS, 192))
    product = packed(weight)
    whole = product(x)
    return all(torch.equal(product(x[:rows]), whole[:rows]) for rows in (1, 3, 16, 100, PACKED_ROWS))


@cache
def least_of_one_order(inputs: int, outputs: int, num_threads: int) -> int | None:
    """From how many rows on a bf16 product with packed weights adds up as it does for `FEW_ROWS` and fewer.

    Tried on some numbers of rows, and in fewer places the larger they are. None: not from any that was tried.
    """
    numbers = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, inputs, generator=numbers).bfloat16() for rows in (max(PROBES[4096]), outputs))
    product, enough = _whole(weight), LOOKED_AT // outputs + 1

    def agrees(x: Tensor) -> bool:
        """At both ends of one call."""
        whole, ends = product(x), ((0, min(len(x), enough)), (max(len(x) - FEW_ROWS, 0), len(x)))
        few = (torch.cat([product(part) for part in x[begin:end].split(FEW_ROWS)]) for begin, end in ends)
        return all(torch.equal(whole[begin:end], its) for (begin, end), its in zip(ends, few, strict=True))

    least = None
    for size, probes in PROBES.items():
        for rows in probes:
            calls = x.split(rows)[: min(-(-enough // rows), len(x) // rows)]
            if not all(agrees(call) for call in calls):
                return least
        least = size
    return least


def rounded(x: Tensor, weight: Tensor) -> Tensor:
    """[N, inputs] times [outputs, inputs], in the dtype of both; differentiable."""
    if _is_onednns(x, weight.T):
        result: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return result
    if x.dtype == torch.float32 or multiplies_bf16(x.device.type):
        return F.linear(x, weight)
    return F.linear(x.float(), weight.float()).to(x.dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return mm(x, weight.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return mm(grad, weight) if of_x else None, mm_of_rows(grad, x) if of_weight else None


def sums(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, K] @ [K, M] -> [N, M] fp32, whatever the dtype of both; differentiable.

    Args:
        dtype: that fp32 operands may be rounded to.
    """
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        result: Tensor = _Sums.apply(a, b, dtype)  # type: ignore[no-untyped-call]
        return result
    if a.dtype != torch.float32 and a.device.type == "cuda" and multiplies_bf16("cuda"):
        return torch.mm(a, b, out_dtype=torch.float32)
    with rounding(dtype):
        return mm(a.float(), b.float())


class _Sums(torch.autograd.Function):
    """The sums of products of rounded operands; the gradient is rounded like them, and summed in fp32 as well."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.dtype = dtype
        return sums(a, b, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (a, b), dtype = ctx.saved_tensors, ctx.dtype
        of_a, of_b, _ = ctx.needs_input_grad
        rounded_grad = grad.to(a.dtype)
        return sums(rounded_grad, b.T, dtype) if of_a else None, sums(a.T, rounded_grad, dtype) if of_b else None, None


def packed(weight: Tensor, dtype: torch.dtype = torch.float32) -> Product:
    """On a processor: the product with a weight [outputs, inputs] that will not change, for few rows.

    Args:
        dtype: that fp32 operands may be rounded to.
    """
    outputs, inputs = weight.shape
    whole = _whole(weight)
    if weight.dtype == torch.float32:
        return partial(_while_rounding, dtype, whole)
    if not multiplies_bf16("cpu"):
        return whole

    def call(x: Tensor) -> Tensor:
        return whole(x) if len(x) != 1 else whole(x.expand(2, -1))[:1]

    def in_calls(x: Tensor) -> Tensor:
        count = len(x)
        if count <= FEW_ROWS:
            return call(x)
        least = least_of_one_order(inputs, outputs, torch.get_num_threads())
        if least is not None and count >= least:
            return whole(x)
        if least is not None and 2 * count > least:  # a large call is twice as fast a row
            return whole(F.pad(x, (0, 0, 0, least - count)))[:count]
        return torch.cat([call(part) for part in x.split(FEW_ROWS)])

    return in_calls


def _while_rounding(dtype: torch.dtype, product: Product, x: Tensor) -> Tensor:
    with rounding(dtype):
        return product(x)


def _whole(weight: Tensor) -> Product:
    """The same, of all rows at once."""
    dtype = weight.dtype
    multiplied = dtype if dtype == torch.float32 or multiplies_bf16("cpu") else torch.float32
    # what torch's own compiler emits for a frozen linear layer
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.to(multiplied).contiguous(), PACKED_ROWS)
    none: Sequence[float] = []

    def product(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(multiplied), blocks, None, "none", none, "")
        return result.to(dtype)

    return product
