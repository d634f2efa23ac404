"""What the pretraining gradient keeps and what frozen layers save, on the real model.

Three runs of PPO from the same SFT and reward model of a finished demonstration, with the KL price off so that nothing
but the pretraining gradient holds the policy back:

    plain     the upper layers learn
    ptx       the same, with the language-model gradient on raw text in the same optimizer step
    unfrozen  every layer learns

Measured: perplexity on held-out raw text before and after, score over the last steps, seconds per step.

    python benchmarks/ppo_variants.py --demo runs/demo --text TEXTS --out runs/ppo-variants

TEXTS is anything `read_texts` reads; a tenth of it, the last, is held out.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from statistics import mean, median

import torch

from palate.corpus import read_texts
from palate.evals.report import Report
from palate.lm.encode import encode_texts
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Data, PPORecipe, parse_recipe
from palate.run.directory import Run
from palate.stages.reinforcement import ppo
from palate.stages.sft import perplexity

LENGTH = 128
MAX_TOKENS = 4096


def main() -> None:
    """Run the variants that are not there yet and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="a finished demonstration")
    parser.add_argument("--text", required=True, help="raw text")
    parser.add_argument("--out", type=Path, default=Path("runs/ppo-variants"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--windows", type=int, default=32, help="held-out sequences of 128 tokens")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    texts = read_texts(Data(path=arguments.text)).records
    cut = -max(1, len(texts) // 10)
    training = arguments.out / "texts.jsonl"
    training.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:cut]), encoding="utf-8")

    rows = [_row("SFT", arguments.demo / "sft", texts[cut:], arguments.windows)]
    for name, changes in variants(training).items():
        run_variant(arguments.out / name, arguments.demo, arguments.steps, changes)
        rows.append(_row(name, arguments.out / name, texts[cut:], arguments.windows))
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    report = Report("PPO: pretraining gradient and frozen layers", machine)
    report.table("Variants", list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])
    report.data("variants", rows)
    report.write(arguments.out)
    for row in rows:
        print("  ".join(f"{key} {_shown(value)}" for key, value in row.items()))


def variants(text: Path) -> dict[str, dict[str, object]]:
    """What each differs in."""
    pretraining = {"data": {"path": str(text)}, "coef": 1.0, "sequences_per_step": 4, "sequence_length": LENGTH}
    return {"plain": {}, "ptx": {"pretraining": pretraining}, "unfrozen": {"frozen_layers": 0}}


def run_variant(out: Path, demo: Path, steps: int, changes: dict[str, object]) -> None:
    """One PPO run, unless it is there."""
    tree: dict[str, object] = {
        "model": str(demo / "sft"),
        "frozen_layers": 22,
        "prompts": {"path": str(demo / "prompts.jsonl")},
        "rewards": [{"model": str(demo / "reward")}],
        "sampling": {"max_new_tokens": 32},
        "steps": steps,
        "prompts_per_step": 8,
        "minibatches": 2,
        "kl_coef": 0.0,
        "truncation_score": -2.0,
        "optimizer": {"learning_rate": 1e-4, "schedule": "constant"},
        "value_optimizer": {"learning_rate": 5e-5},
    }
    recipe = parse_recipe(PPORecipe, tree | changes)
    run = Run.open(out, recipe, resume=(out / "lineage.json").exists())
    if not run.finished:
        ppo.train(recipe, run)


def _row(name: str, directory: Path, held_out: tuple[str, ...], windows: int) -> dict[str, object]:
    loaded = load_language_model(str(directory))
    text = encode_texts(loaded.chat, held_out, length=LENGTH).select(torch.arange(windows))
    row: dict[str, object] = {"variant": name, "perplexity": perplexity(loaded.model, text, MAX_TOKENS)}
    metrics = directory / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").split("\n")[:-1]]
    learned = [step for step in steps if "objective/score" in step]
    row["score"] = mean(step["objective/score"] for step in learned[-4:]) if learned else None
    row["KL"] = mean(step["objective/kl"] for step in learned[-4:]) if learned else None
    row["seconds per step"] = median(step["time/step_s"] for step in learned) if learned else None
    return row


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
