"""Decoding with its step captured as a graph, beside the same step launched kernel by kernel: equal tokens, and times.

    python benchmarks/graphs.py runs/bench/work             the texts and the model that the benchmark has left there

On a processor nothing can be captured: both are then the step as a GPU would capture it, called.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
import work

from palate.lm.sources.zoo import load_language_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout import slots
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine

ROUNDS = 4
"""The first is not counted."""


def main() -> None:
    """Measure, print a table, and end with status 1 if one way drew other tokens than the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", choices=[*work.SIZES], default="short")
    arguments = parser.parse_args()
    loaded = load_language_model(str(arguments.work / "endless"))
    engine, sizes = LocalEngine(loaded.model, loaded.chat), work.SIZES[arguments.rows]
    prompts = [Prompt.from_text(row["prompt"]) for row in work.read(arguments.work, "prompts.jsonl")]
    settings = Sampling(temperature=1.0, max_new_tokens=sizes.new)

    def drawn() -> tuple[Rollout, float]:
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            rollout = engine.generate(prompts, settings, num_responses=work.SAMPLES_EACH, key=("graphs",))
            seconds.append(time.perf_counter() - start)  # its tokens are on the processor: all is done
        return rollout, median(seconds[1:])

    with patch.object(slots, "stays_in_place", lambda device: True):
        graph, with_graph = drawn()
        with patch.object(slots, "captured", lambda compute, device: compute):
            plain, without = drawn()
    tokens = int(graph.sequences.mask.sum())
    print(f"{loaded.model.device}, products in {loaded.model.model.dtype}, {tokens} tokens a rollout\n")
    print("| step | ms | tokens a second |\n|---|---|---|")
    for name, seconds in (("captured", with_graph), ("launched kernel by kernel", without)):
        print(f"| {name} | {1000 * seconds / sizes.new:.2f} | {tokens / seconds:.0f} |")
    if not torch.equal(graph.sequences.tokens, plain.sequences.tokens):
        raise SystemExit("\nthe captured step drew other tokens")
    gap = float((graph.logprobs - plain.logprobs).abs().max())
    print(f"\nThe same tokens; log-probabilities at most {gap:.1e} apart.")


if __name__ == "__main__":
    main()
