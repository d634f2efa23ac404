"""Pretraining at nanoGPT's size for a CPU, beside transformers' Trainer: the same network, rows and settings, in turn.

    python benchmarks/pretraining.py TEXT.txt [--steps 50] [--rounds 3]

4 layers, 4 heads, width 128, rows of 64 bytes, 12 of them in a step, one thread. Both sides begin with the same weights
and make the same number of steps of the same number of tokens; in every round each makes its own while the other waits.
Reported are tokens per second without the first steps, in which memory is asked for the first time. Needs `accelerate`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from palate.corpus import read_texts
from palate.lm.pretraining.packing import Documents
from palate.lm.pretraining.sizes import draw, new_config, write_new
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import load_chat
from palate.recipe import Architecture, Data, PretrainRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import pretrain

LENGTH, BATCH, WARM_UP = 64, 12, 5
SHAPE = {"num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "hidden_size": 128, "intermediate_size": 344}
OPTIMIZER = {"learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.99}


class Clock(TrainerCallback):
    """When each step was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def log(self, *_: Any) -> None:
        """The same, as a tracker of ours."""
        self.on_step_end()

    def text(self, *_: Any) -> None:
        """Samples; there are none."""

    def close(self) -> None:
        """Nothing is open."""

    def rate(self) -> float:
        """Tokens per second, by the median step."""
        gaps = [b - a for a, b in zip(self.times[WARM_UP:], self.times[WARM_UP + 1 :], strict=False)]
        return LENGTH * BATCH / median(gaps)


def ours(model: Path, text: Path, steps: int, out: Path) -> float:
    """The stage, unchanged."""
    tree = {
        "model": str(model),
        "precision": "fp32",
        "data": {"path": str(text)},
        "sequence_length": LENGTH,
        "batch_size": BATCH,
        "steps": steps,
        "evaluate_every": 10**6,
        "checkpoint_every": 10**6,
        "num_samples": 0,
        "held_out_fraction": 0.05,
        "optimizer": OPTIMIZER,
    }
    clock, recipe = Clock(), parse_recipe(PretrainRecipe, tree)
    pretrain.train(recipe, Run.open(out, recipe, trackers=[clock]))
    return clock.rate()


def theirs(model: Path, rows: list[dict[str, list[int]]], steps: int, out: Path) -> float:
    """transformers' own loop; as many tokens are foretold in a row as in ours."""
    clock, kind = Clock(), AutoModelForCausalLM
    arguments = TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=OPTIMIZER["learning_rate"],
        weight_decay=OPTIMIZER["weight_decay"],
        adam_beta2=OPTIMIZER["beta2"],
        optim="adamw_torch_fused",
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
    )
    network = kind.from_pretrained(model, dtype=torch.float32)
    Trainer(model=network, args=arguments, train_dataset=rows, callbacks=[clock]).train()
    return clock.rate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home, tokenizer = Path(folder), byte_tokenizer()
        model = home / "model"
        config = new_config(Architecture.model_validate(SHAPE), tokenizer, context=LENGTH + 1)
        write_new(model, config, tokenizer, draw(config, 0))
        texts = read_texts(Data(path=str(arguments.text))).records
        stream = Documents.of(load_chat(str(model)), texts).tokens.tolist()
        starts = range(0, len(stream) - LENGTH, LENGTH)
        windows = [stream[start : start + LENGTH + 1] for start in starts]
        rows = [{"input_ids": window, "labels": window} for window in windows]
        rates: dict[str, list[float]] = {"palate": [], "Trainer": []}
        for number in range(arguments.rounds):
            rates["palate"].append(ours(model, arguments.text, arguments.steps, home / f"ours{number}"))
            rates["Trainer"].append(theirs(model, rows, arguments.steps, home / f"theirs{number}"))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    for name, values in rates.items():
        print(f"{name:<8} {median(values):8,.0f} tokens/s  ({min(values):,.0f} to {max(values):,.0f})")
    print(f"ratio    {median(ratios):8.2f}           ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)")
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
