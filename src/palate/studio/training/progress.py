"""How far a run is and how it goes, read from its directory while it is being written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from palate.run import lineage
from palate.run.metrics import explain
from palate.studio.training import launch
from palate.studio.web import charts
from palate.studio.web.charts import Bar, Series, percent

Rows = Sequence[Mapping[str, Any]]

_STEP = re.compile(rb'\{"step": (\d+)')
"""How a line of samples begins."""

LAST = 1 << 14
"""Bytes at the end of a file of metrics in which its last line surely is."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One picture: metrics that belong together, and what it shows."""

    title: str
    metrics: tuple[str, ...]
    is_share: bool = False
    reference: float | None = None


CURVES = (
    Curve("Score", ("objective/score", "objective/reward")),
    Curve("KL to the reference", ("objective/kl", "objective/kl_k3")),
    Curve("Response length", ("tokens/response_length",)),
    Curve("Entropy", ("policy/entropy",)),
    Curve("Responses cut off", ("tokens/truncated",), is_share=True),
    Curve("Loss", ("sft/loss", "reward/loss", "dpo/loss", "kto/loss", "distill/loss")),
    Curve("Pairs ordered as people did", ("reward/accuracy", "dpo/accuracy"), is_share=True, reference=0.5),
    Curve("Margin", ("reward/margin", "dpo/margin")),
    Curve("Implied rewards", ("dpo/chosen_reward", "dpo/rejected_reward")),
    Curve("Thumbs told apart", ("kto/accuracy",), is_share=True, reference=0.5),
    Curve("Implied rewards of liked and disliked answers", ("kto/desirable_reward", "kto/undesirable_reward")),
    Curve("KL to the reference, as KTO estimates it", ("kto/kl", "kto/reference_point")),
    Curve("Clipped tokens", ("policy/clip_fraction", "value/clip_fraction"), is_share=True),
    Curve("Value: explained variance", ("value/explained_variance",)),
    Curve("Gradient norm", ("policy/grad_norm", "value/grad_norm", "reward/grad_norm")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run's steps so far.

    Attributes:
        total: None before training began.
        rows: its last metrics, one row a step.
    """

    step: int
    total: int | None
    rows: Rows


def progress_of(directory: Path, *, most: int | None = None) -> Progress:
    """Where a run is; nothing at all before it began.

    Args:
        most: bytes of its metrics that are read, from the end; None for all.
    """
    rows = read_rows(directory / "metrics.jsonl", most=most)
    try:
        record = lineage.read(directory) or {}
    except ValueError:  # being written
        record = {}
    return Progress(step=int(rows[-1]["step"]) + 1 if rows else 0, total=record.get("total_steps"), rows=rows)


def progress_of_job(directory: Path, command: str, recipe: Mapping[str, Any]) -> Progress:
    """Where a job is: its run, or how many of several runs are over."""
    if command == "compare":
        return progress_of_comparison(directory, recipe)
    if command == "rounds":
        done = sum((path / "answers.jsonl").exists() for path in directory.glob("round-*"))
        return Progress(step=done, total=recipe.get("rounds"), rows=[])
    if command == "agent":
        kinds = 1 if recipe["alone"] else len(_AGENTS)
        return Progress(step=sum(map(_ended, directory.glob("*/seed-*"))), total=recipe["seeds"] * kinds, rows=[])
    return progress_of(directory, most=LAST)


_AGENTS = ("learned", "true-reward", "random-labels")
"""What is run of an agent with its controls."""


def progress_of_comparison(directory: Path, recipe: Mapping[str, Any]) -> Progress:
    """The same of a comparison, whose steps are whole runs; one that failed is never done."""
    done = [_ended(directory / name / f"seed-{seed}") for name in recipe["methods"] for seed in range(recipe["seeds"])]
    return Progress(step=sum(done), total=len(done), rows=[])


def _ended(directory: Path) -> bool:
    try:
        return (lineage.read(directory) or {}).get("ended") is not None
    except ValueError:  # being written
        return False


def read_rows(path: Path, *, most: int | None = None) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file that may just be written, or of its last ``most`` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(0 if most is None else max(0, path.stat().st_size - most))
            return _whole(file.read().split(b"\n")[:-1])
    except FileNotFoundError:
        return []


def _whole(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:  # torn by a process that was killed, or by where we began
            continue
    return rows


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def pictures(rows: Rows) -> list[tuple[Markup, str]]:
    """A chart with what it shows, for everything that the run has logged of `CURVES`."""
    return [_picture(curve, rows) for curve in CURVES if any(name in row for row in rows for name in curve.metrics)]


def read_samples(path: Path, *, most: int = 6) -> list[tuple[int, Rows]]:
    """The samples of the first step, the last, and some between; the newest first.

    Other lines are not parsed, for a page asks every few seconds and a token of a sample has a line's worth of numbers.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    by_step: dict[int, list[bytes]] = {}
    for line in lines:
        if found := _STEP.match(line):
            by_step.setdefault(int(found[1]), []).append(line)
    steps = sorted(by_step)
    if len(steps) > most:
        steps = [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]
    return [(step, _whole(by_step[step])) for step in reversed(steps)]


def last_word(directory: Path) -> str:
    """The one clear line of a log: what `palate` said last, else the last line of all."""
    lines = [line for line in tail(directory / launch.LOG).splitlines() if line.strip()]
    said = [line.removeprefix("palate: ") for line in lines if line.startswith("palate: ")]
    word = (said or lines or ["it ended without a word"])[-1].strip()
    return word.removesuffix("; go on with --resume")[:1000]


def tail(path: Path, *, most: int = 16_000) -> str:
    """The end of a file that is being written; whole lines, without what colours a terminal."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        text = file.read().decode("utf-8", errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        return text if size <= most else text.partition("\n")[2]
    return ""


def accuracy_chart(found: Mapping[str, Any]) -> Markup:
    """A reward model's accuracy by labeler: those it learned from first, then those it has never heard."""
    labelers = sorted(found["labelers"], key=lambda labeler: (labeler["held_out"], labeler["name"]))
    entries = [
        Bar(
            label=labeler["name"],
            **labeler["accuracy"],
            note=f"{labeler['num_pairs']} pairs{', held out' if labeler['held_out'] else ''}",
            colour=2 if labeler["held_out"] else 1,
        )
        for labeler in labelers
    ]
    groups = [
        Bar(label="Within", **found["within"], note="labelers it learned from"),
        Bar(label="Across", **found["across"], note="held-out labelers", colour=2),
    ]
    return charts.bars(
        "Accuracy by labeler", [*groups, *entries], high=1.0, reference=0.5, format=percent, within=charts.SHARE
    )


def _picture(curve: Curve, rows: Rows) -> tuple[Markup, str]:
    present = [name for name in curve.metrics if any(name in row for row in rows)]
    steps = [float(row["step"]) for row in rows]
    series = [Series(name=name, x=steps, y=[row.get(name) for row in rows]) for name in present]
    drawing = charts.lines(
        curve.title,
        series,
        x_label="step",
        smooth=True,
        reference=curve.reference,
        y_format=percent if curve.is_share else None,
        y_low=0.0 if curve.is_share else None,
        y_within=charts.SHARE if curve.is_share else charts.ANY,
    )
    return drawing, (explain(present[0]) or "").replace("`", "")
