"""Attention over rows of uneven length on a processor: runs of one length, as in training, and padded side by side.

    python benchmarks/uneven_rows.py [--rounds 10]

One layer's attention in SmolLM2-135M's shape, in one thread, forward and with its gradient, beside products in fp32 and
in bf16. Lengths are log-normal, as spread as those of real dialogues. The padded way is the one a GPU has, under
autograd. Both take turns; the fastest round of each counts, in the thread's own time, so that what else the machine
does is left out as far as it can be. Beside it what waits
for the backward pass, and the ratios. That both give the same numbers is tested (`tests/lm/test_attention.py`).
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from palate.lm.batch import Layout, Sequences
from palate.lm.decoder import packed_attention
from palate.lm.families import Rule
from palate.lm.memory import keep_freed_memory

HEADS, KEY_HEADS, SIZE = 9, 3, 64
SPREAD = 0.75
"""Of the lengths' logarithms: prompts of Anthropic's HH data."""
KINDS = {"cpu": "in runs", "cuda": "padded"}
"""For which kind of device rows are laid out."""

Meeting = Callable[[Tensor, Tensor, Tensor], Tensor]


def lengths(mean: int, count: int, seed: int) -> list[int]:
    """Always the same."""
    numbers = random.Random(seed)
    return [max(4, int(mean * math.exp(numbers.gauss(-(SPREAD**2) / 2, SPREAD)))) for _ in range(count)]


def batch(prompts: list[int], responses: list[int]) -> Sequences:
    """As many responses to each prompt."""
    each = len(responses) // len(prompts)
    groups = [number for number in range(len(prompts)) for _ in range(each)]
    return Sequences.pack([[1] * prompts[group] for group in groups], [[1] * x for x in responses], group_ids=groups)


BATCHES = {
    "48 texts of 60": batch([0] * 48, lengths(60, 48, 0)),
    "12 texts of 300": batch([0] * 12, lengths(300, 12, 0)),
    "4 texts of 1,000": batch([0] * 4, lengths(1000, 4, 0)),
    "SFT: 16 responses of 34 to prompts of 60": batch(lengths(60, 16, 0), lengths(34, 16, 1)),
    "rankings: 8 prompts of 60, 4 responses of 34 each": batch(lengths(60, 8, 0), lengths(34, 32, 1)),
    "a policy's: 8 prompts of 45, 4 responses of 48 each": batch([45] * 8, [48] * 32),
}
"""Rows of so many tokens on average; a policy's responses all as long as they may be."""


def gradients(meet: Meeting, upper: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """Of queries, keys and values, given that of what comes out."""
    return torch.autograd.grad(meet(*rows), rows, upper)


def kept(meet: Meeting, *rows: Tensor) -> int:
    """Bytes that wait for the backward pass."""
    found: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = meet(*rows)
    return sum(found.values()) if out.requires_grad else 0


def milliseconds(work: Callable[[], object]) -> float:
    """Of this thread's time."""
    begun = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, sequences in BATCHES.items():
        for dtype in (torch.float32, torch.bfloat16):
            layouts = {what: Layout.of(sequences, kind=kind) for kind, what in KINDS.items()}
            tokens = {what: layout.tokens for what, layout in layouts.items()}
            ways: dict[str, Meeting] = {
                what: partial(packed_attention(layout, dtype), 0, Rule()) for what, layout in layouts.items()
            }
            sizes = [(len(tokens["padded"]), heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)]
            *rows, upper = (torch.randn(*size) for size in sizes)
            rows = [x.requires_grad_() for x in rows]
            best = {what: [math.inf, math.inf] for what in ways}
            for _ in range(arguments.rounds):
                for what, meet in ways.items():
                    with torch.no_grad():
                        forward = milliseconds(partial(meet, *rows))
                    both = milliseconds(partial(gradients, meet, upper, *rows))
                    best[what] = [min(best[what][0], forward), min(best[what][1], both)]
            said = [
                f"{what} {forward:.1f} and {both:.1f} ms, {kept(ways[what], *rows) / 2**20:.1f} MiB"
                for what, (forward, both) in best.items()
            ]
            ratios = [padded / mine for mine, padded in zip(best["in runs"], best["padded"], strict=True)]
            print(f"{name}, {str(dtype)[6:]}: {'; '.join(said)}; {ratios[0]:.2f} and {ratios[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
