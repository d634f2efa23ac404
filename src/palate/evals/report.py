"""The report of any training run, from what its directory holds: curves, first and last samples, origin.

Whatever a stage logged is shown, whatever it did not is left out, so that no stage needs drawing code of its own. A
stage with more to say passes ``extra``, which adds its parts after the curves. Other reports are built from ``Report``,
which is the page itself (``page.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palate.errors import RunError
from palate.evals import plots
from palate.evals.credit import credit_of_steps
from palate.evals.page import Report, format_number, read_object
from palate.run.metrics import explain

__all__ = ["Report", "stage_report"]

Rows = list[dict[str, Any]]

CURVES: dict[str, tuple[str, ...]] = {
    "Score": ("objective/score", "objective/reward"),
    "Spread of the ensemble": ("objective/spread",),
    "Held-out score": ("overoptimization/held_out",),
    "KL to the reference": ("objective/kl", "objective/kl_k3"),
    "Entropy": ("policy/entropy",),
    "Response length": ("tokens/response_length",),
    "Truncated responses": ("tokens/truncated",),
    "Groups without signal": ("objective/groups_without_signal",),
    "Clipped tokens": ("policy/clip_fraction", "value/clip_fraction"),
    "KL of one update": ("policy/approx_kl",),
    "Value: explained variance": ("value/explained_variance",),
    "Pretraining loss": ("policy/pretraining_loss",),
    "Loss on documents": ("pretrain/loss", "pretrain/held_out_loss"),
    "Bits per byte of held-out documents": ("pretrain/bits_per_byte",),
    "Loss on demonstrations": ("sft/loss",),
    "Ranking loss": ("reward/loss",),
    "Accuracy on rankings": ("reward/accuracy",),
    "Loss on ratings": ("reward/rating_loss",),
    "Loss on flags": ("reward/flag_loss",),
    "Margin": ("reward/margin", "dpo/margin"),
    "DPO loss": ("dpo/loss",),
    "Accuracy on pairs": ("dpo/accuracy",),
    "Implied rewards": ("dpo/chosen_reward", "dpo/rejected_reward"),
    "Log-probabilities": ("dpo/chosen_logprob", "dpo/rejected_logprob"),
    "Kept responses": ("raft/kept_score",),
    "Divergence from the teacher": ("distill/loss",),
    "The first place, and flips": ("judge/first_place", "judge/flips"),
    "Revisions that differ from their draft": ("revise/changed",),
    "KTO loss": ("kto/loss",),
    "Thumbs on their side": ("kto/accuracy",),
    "Reference point": ("kto/kl", "kto/reference_point"),
    "Implied rewards of thumbs": ("kto/desirable_reward", "kto/undesirable_reward"),
    "Log-probabilities of thumbs": ("kto/desirable_logprob", "kto/undesirable_logprob"),
    "Return of an episode": ("agent/return", "agent/training_return"),
    "Paid against the environment's reward": ("agent/reward_correlation",),
    "Comparisons asked": ("labels/asked",),
    "Answers foretold": ("labels/foretold",),
    "Disagreement on the pairs asked": ("labels/disagreement",),
    "Gradient norm": ("policy/grad_norm", "value/grad_norm", "reward/grad_norm"),
}


def stage_report(
    directory: Path | str,
    *,
    title: str,
    numbers: Mapping[str, float | None] | None = None,
    notes: Sequence[str] = (),
    extra: Callable[[Report], None] | None = None,
) -> Report:
    """Write ``report.html`` and ``report.json`` for a run directory and return the report.

    Args:
        directory: with ``metrics.jsonl``, ``samples.jsonl`` and ``lineage.json`` as far as there are any.
        title: what a person would call the run.
        numbers: the headline; ``x_low`` and ``x_high`` are the interval of ``x``. Absent: what the stage reported.
        notes: what was dropped, skipped or assumed, besides what ``report.json`` says of that already.
        extra: adds figures, tables and texts of the stage's own.

    Raises:
        RunError: the directory does not exist.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"{directory} is no run directory: there is nothing to report on")
    metrics, torn_metrics = _read_rows(directory / "metrics.jsonl")
    samples, torn_samples = _read_rows(directory / "samples.jsonl")
    lineage, known = read_object(directory / "lineage.json"), read_object(directory / "report.json")
    report = Report(title, _subtitle(lineage, metrics))
    _add_numbers(report, _reported(known) if numbers is None else numbers)
    _add_curves(report, metrics)
    if extra is not None:
        extra(report)
    _add_samples(report, samples)
    if steps := credit_of_steps(samples):
        report.credit("Credit, token by token", steps)
    _add_metrics(report, metrics)
    lines = [*known.get("notes", []), *notes]
    if torn := torn_metrics + torn_samples:
        lines.append(f"Torn lines of metrics.jsonl and samples.jsonl that were skipped: {torn}")
    if lines:
        report.text("Dropped, skipped, assumed", "\n\n".join(map(str, lines)))
    _add_origin(report, lineage)
    report.write(directory)
    return report


def _reported(known: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a finished run's ``report.json`` that are the stage's own."""
    numbers = {key: value for key, value in known.items() if key not in ("steps", "seconds")}
    return {k: v for k, v in numbers.items() if v is None or (isinstance(v, int | float) and not isinstance(v, bool))}


def _add_numbers(report: Report, numbers: Mapping[str, float | None]) -> None:
    bounds = {f"{key}_{side}" for key in numbers for side in ("low", "high")}
    for key, value in numbers.items():
        if key not in bounds:
            low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
            report.number(key, value, low=low, high=high, note=explain(key) or "")


def _read_rows(path: Path) -> tuple[Rows, int]:
    """The objects of a JSON-lines file and how many lines were torn; a missing file has none."""
    if not path.exists():
        return [], 0
    rows: Rows = []
    torn = 0
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")):  # a text may hold other line separators
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            torn += 1
    return rows, torn


def _subtitle(lineage: Mapping[str, Any], metrics: Rows) -> str:
    steps = f"{len(metrics)} step{'s' if len(metrics) != 1 else ''}"
    return ", ".join([str(lineage[key]) for key in ("stage", "started") if lineage.get(key)] + [steps])


TERMS = "objective/terms/"
"""Under this are the terms of a reward of several."""


def _add_curves(report: Report, metrics: Rows) -> None:
    terms = dict.fromkeys(name for row in metrics for name in row if name.startswith(TERMS))
    groups = {title: names for title, names in CURVES.items() if any(name in row for row in metrics for name in names)}
    groups |= {"Terms of the reward": tuple(terms)} if terms else {}
    if groups:
        svg = plots.learning_curves(metrics, groups)
        report.figure("Learning curves", svg, "Of many steps: faint each one, strong their running mean.")
    path = [row for row in metrics if "objective/kl" in row and "objective/score" in row]
    if len(path) > 1:
        labels = [f"step {path[0].get('step', 0)}", *[""] * (len(path) - 2), f"step {path[-1].get('step', '')}"]
        svg = plots.reward_against_kl([r["objective/kl"] for r in path], [r["objective/score"] for r in path], labels)
        report.figure("Reward against KL", svg, "What was gained against how far the policy moved from its reference.")


def _add_samples(report: Report, samples: Rows) -> None:
    """Prompts that were sampled both first and last are shown side by side, else one table for each."""
    steps = sorted({row.get("step", 0) for row in samples})
    if not steps:
        return
    first, last = (_of_step(samples, step) for step in (steps[0], steps[-1]))
    after = {row.get("prompt"): row for row in last}
    both = [(row, after[row.get("prompt")]) for row in first if row.get("prompt") in after]
    if len(steps) > 1 and both:
        rows = [{"prompt": a.get("prompt"), "first": a.get("response"), "last": b.get("response")} for a, b in both]
        report.side_by_side(f"Responses at step {steps[0]} and at step {steps[-1]}", rows)
        return
    for step, rows in {steps[0]: first, steps[-1]: last}.items():
        report.side_by_side(f"Responses at step {step}", rows)


def _of_step(samples: Rows, step: int, limit: int = 8) -> Rows:
    told = [
        {k: v for k, v in row.items() if k not in ("step", "credit")} for row in samples if row.get("step", 0) == step
    ]
    return told[:limit]


def _add_metrics(report: Report, metrics: Rows) -> None:
    names = sorted({name for row in metrics for name in row} - {"step"})
    if not names:
        return
    values = {name: [row[name] for row in metrics if name in row] for name in names}
    rows = [
        [name, format_number(values[name][0]), format_number(values[name][-1]), explain(name) or ""] for name in names
    ]
    report.table("All metrics", ["metric", "first", "last", "what it is"], rows)


def _add_origin(report: Report, lineage: Mapping[str, Any]) -> None:
    """Where the run came from, as far as it fits a line each."""
    rows: list[Sequence[object]] = []
    for key in ("stage", "recipe", "started", "ended", "commit", "platform", "cpu"):
        if lineage.get(key):
            rows.append([key, lineage[key]])
    rows += [["parent", f"{parent.get('path')} ({parent.get('stage')})"] for parent in lineage.get("parents", [])]
    versions = lineage.get("versions", {})
    if versions:
        rows.append(["versions", ", ".join(f"{name} {version}" for name, version in versions.items())])
    if rows:
        report.table("Origin", ["", ""], rows, "The rest, with hashes of everything that was read, is in lineage.json.")
