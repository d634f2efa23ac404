"""One task of lm-evaluation-harness on the same file by its own `hf` model and by Palate's adapter: numbers and speed.

    python benchmarks/beside_lm_eval.py arc_easy.jsonl --items 200

The file has rows of `query, choices, gold`, as in MosaicML's llm-foundry. Run it where lm-eval is installed; both
compute in fp32 on one thread. Tokens are those of every choice with its question, as the harness counts them; Palate
computes a question that its choices share once. Seconds are the processor's, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM

from palate.corpus.containers.files import read_rows
from palate.evals.asking.harness_adapter import PalateLM
from palate.evals.protocols.choices import CHOICES
from palate.evals.protocols.items import Continuation
from palate.lm.sources.zoo import locate


def task(path: Path) -> dict[str, Any]:
    """The questions of a file, as the harness describes tasks."""
    return {
        "task": "on_this_file",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


def measured(model: Any, path: Path) -> tuple[dict[str, Any], float, float]:
    """What the harness found, and the seconds of the model's answers: the processor's and the wall's."""
    seconds = [0.0, 0.0]
    answer = model._loglikelihood_tokens

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time(), time.perf_counter()
        found = answer(*args, **kwargs)
        seconds[0] += time.process_time() - begun[0]
        seconds[1] += time.perf_counter() - begun[1]
        return found

    model._loglikelihood_tokens = timed
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task(path)], log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    return found, seconds[0], seconds[1]


def main() -> None:
    """A line for each model, and how far they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--out", type=Path, default=Path("runs/beside_lm_eval"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = (args.out / "questions.jsonl").resolve()
    rows = [row.fields for _, row in zip(range(args.items), read_rows(args.file), strict=False)]
    for row in rows:
        row["query"] = row["query"].rstrip("\n")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    palate = PalateLM(args.model, precision="fp32", device="cpu")
    directory = str(locate(args.model))
    models = {f"hf, batches of {size}": (HFLM, size) for size in args.batch_sizes}
    asked = [each for item in CHOICES["arc_easy"].read(path) for each in item.asked if isinstance(each, Continuation)]
    tokens = sum(len(palate.tok_encode(each.context + each.text)) for each in asked)
    samples = {}
    for name in [*models, "palate"]:
        if name == "palate":
            model: Any = palate
        else:
            kind, size = models[name]
            model = kind(pretrained=directory, dtype="float32", device="cpu", batch_size=size)
        found, processor, wall = measured(model, path)
        numbers = found["results"]["on_this_file"]
        print(
            f"{name}: acc {numbers['acc,none']:.4f}, acc_norm {numbers['acc_norm,none']:.4f}; {tokens:,} tokens, "
            f"{tokens / processor:,.0f} a second of the processor's ({processor:.1f} s, {wall:.1f} s by the clock)",
            flush=True,
        )
        samples[name] = sorted(found["samples"]["on_this_file"], key=lambda sample: sample["doc_id"])
    for name in models:
        pairs = [
            (theirs[0], ours[0])
            for one, other in zip(samples[name], samples["palate"], strict=True)
            for theirs, ours in zip(one["filtered_resps"], other["filtered_resps"], strict=True)
        ]
        same = sum(
            all(one[metric] == other[metric] for metric in ("acc", "acc_norm"))
            for one, other in zip(samples[name], samples["palate"], strict=True)
        )
        furthest = max(abs(a - b) for a, b in pairs)
        print(f"{name} and palate: {same} of {len(samples[name])} items alike, {furthest:.2g} nats at most")


if __name__ == "__main__":
    main()
