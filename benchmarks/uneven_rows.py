"""Attention over rows of uneven length on a processor: padded side by side, as now, and each by itself.

    python benchmarks/uneven_rows.py [--rounds 10]

One layer's attention in SmolLM2-135M's shape, in fp32 and in one thread, forward and with its gradient. Lengths are
log-normal, as spread as those of real dialogues. Both ways take turns; the fastest round of each counts, and how far
their numbers lie apart is printed beside.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.lm.batch import Layout, Sequences
from palate.lm.decoder import packed_attention
from palate.lm.families import Rule

HEADS, KEY_HEADS, SIZE = 9, 3, 64
SPREAD = 0.75
"""Of the lengths' logarithms: prompts of Anthropic's HH data."""
ROWS = {60: 48, 300: 12, 1000: 4}
"""How many rows of so many tokens on average."""

Meeting = Callable[[Tensor, Tensor, Tensor], Tensor]


def lengths(mean: int, count: int) -> list[int]:
    """Always the same."""
    numbers = random.Random(0)
    return [max(4, int(mean * math.exp(numbers.gauss(-(SPREAD**2) / 2, SPREAD)))) for _ in range(count)]


def side_by_side(layout: Layout) -> Meeting:
    """What training does: about equal lengths are padded together."""
    attend = packed_attention(layout, torch.float32)
    return lambda q, k, v: attend(0, Rule(), q, k, v)


def one_by_one(layout: Layout) -> Meeting:
    """Every row of its own length."""
    rows = [length for length in layout.run_lengths.tolist() if length]

    def meet(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = []
        for one in zip(*(x.split(rows) for x in (q, k, v)), strict=True):
            queries, keys, values = (x[None].transpose(1, 2) for x in one)
            met = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
            found.append(met.transpose(1, 2)[0])
        return torch.cat(found)

    return meet


def gradients(meet: Meeting, upper: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """Of queries, keys and values, given that of what comes out."""
    return torch.autograd.grad(meet(*rows), rows, upper)


def milliseconds(work: Callable[[], object]) -> float:
    """Of one time."""
    begun = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for mean, count in ROWS.items():
        layout = Layout.of(Sequences.pack([[1] * length for length in lengths(mean, count)], [[]] * count))
        tokens = len(layout.tokens)
        q, k, v = (torch.randn(tokens, heads, SIZE).requires_grad_(True) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
        upper = torch.randn(tokens, HEADS, SIZE)

        ways = {"padded": side_by_side(layout), "one by one": one_by_one(layout)}
        found = [gradients(meet, upper, q, k, v) for meet in ways.values()]
        apart = max(float((one - other).abs().max()) for one, other in zip(*found, strict=True))
        best: dict[str, list[float]] = {name: [math.inf, math.inf] for name in ways}
        for _ in range(arguments.rounds):
            for name, meet in ways.items():
                with torch.no_grad():
                    forward = milliseconds(partial(meet, q, k, v))
                both = milliseconds(partial(gradients, meet, upper, q, k, v))
                best[name] = [min(best[name][0], forward), min(best[name][1], both)]
        said = ", ".join(f"{name} {forward:.1f} and {both:.1f} ms" for name, (forward, both) in best.items())
        print(f"{count} rows, {tokens:,} tokens: forward and with gradient {said}; apart by {apart:.0e}", flush=True)


if __name__ == "__main__":
    main()
