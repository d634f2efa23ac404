"""What came of a model made from plain text: each phase beside the others, and what they write.

Bits per byte are measured anew after each phase, on the same held-out text, so that what a later phase costs is seen.
The samples are of the same prompts in every phase; the pretrained model, which knows no prompts, is given the opening
alone and goes on until it is cut off.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.corpus import read_texts
from palate.demo.from_text import LENGTH, SCALES, FromText, TextScale, text_files
from palate.demo.loop import PPO_CURVES
from palate.demo.passages import ASK
from palate.evals import plots
from palate.evals.report import Report
from palate.evals.text import text_signals
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.lm.model import LanguageModel
from palate.lm.pretraining.packing import Documents, Rows
from palate.lm.sources.zoo import Loaded, Precision, load_language_model
from palate.recipe import Data
from palate.records import Demonstration, Prompt, Ranking
from palate.rewards.learned import LearnedReward
from palate.rewards.rules import FunctionReward
from palate.rollout import local
from palate.stages.evaluate import answers, describe_reward_model
from palate.stages.pretrain import measure

__all__ = ["SCALES", "from_text"]

SHOWN = 12
"""Prompts whose continuations are shown."""
PRETRAINING_CURVES = {
    "Loss on documents": ["pretrain/loss", "pretrain/held_out_loss"],
    "Held-out bits per byte": ["pretrain/bits_per_byte"],
}
SIGNALS = ("mean_words", "finished", "repeated_3", "distinct_2", "duplicates")
"""Of the texts that each phase writes; see `evals/text.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A model of the chain.

    Attributes:
        bits_per_byte: of the beginnings of held-out documents.
        texts: its continuations of the held-out openings, one each.
        seconds: that its run took.
    """

    name: str
    bits_per_byte: float
    texts: Sequence[str]
    seconds: float


def from_text(
    out: Path, *, texts: Path, seed: int = 0, scale: TextScale = SCALES["full"], precision: Precision = "auto"
) -> None:
    """Run it all into ``out`` and write ``report.html`` and ``report.json`` there.

    Args:
        texts: a file of plain text or documents, or a directory of them.
    """
    chain = FromText(Path(out), seed, scale, Path(texts), precision)
    chain.run()
    start = time.monotonic()
    pretrained, evaluation, learned = (chain.figures(name) for name in ("pretrained", "evaluation", "reward"))
    report = Report("Palate: from text to a model with a taste", f"seed {seed}, {pretrained['weights']:,} weights")
    describe_result(report, chain, evaluation, learned)
    phases = [phase(chain, name) for name in ("pretrained", "sft", "ppo")]
    describe_phases(report, chain, phases)
    report.figure("Pretraining", plots.learning_curves(chain.metrics("pretrained"), PRETRAINING_CURVES))
    sft = load_language_model(str(chain.out / "sft"), precision=precision)
    judged = answers(
        sft,
        chain.held_out_prompts(),
        FunctionReward(chain.taste.function),
        chain.sampling,
        num_responses=scale.evaluation_responses,
        seed=seed,
    )
    proxy = LearnedReward(str(chain.out / "reward"), precision=precision)
    describe_reward_model(report, judged, proxy, seed=seed)
    rows = chain.metrics("ppo")
    report.figure("PPO, step by step", plots.learning_curves(rows, PPO_CURVES), "Faint: every step.")
    report.text("Dropped, skipped, assumed", "\n\n".join(notes(chain)))
    report.number("seconds", chain.seconds() + time.monotonic() - start, label="Seconds", note="all phases together")
    report.write(chain.out)


def describe_result(report: Report, chain: FromText, evaluation: Mapping[str, Any], learned: Mapping[str, Any]) -> None:
    """Win rate, and the reward model beside the labelers it learned from."""
    for key, label, note in (
        ("win_rate", "Win rate", "of PPO against SFT on held-out documents, by the hidden taste; ties half"),
        ("win_rate_length_controlled", "At equal length", "win rate with the length difference regressed out"),
        ("kl", "KL", "nats per response, PPO to SFT"),
    ):
        bounds = {side: evaluation.get(f"{key}_{side}") for side in ("low", "high")}
        report.number(key, evaluation[key], **bounds, label=label, note=note)
    report.number(
        "reward_model_accuracy",
        learned["accuracy"],
        low=learned["accuracy_low"],
        high=learned["accuracy_high"],
        label="Reward model accuracy",
        note="pairs of held-out prompts ordered as the labelers did",
    )
    agreed = agreement(chain.read("rankings.jsonl", Ranking))
    report.number(
        "agreement", agreed.percent, low=agreed.low, high=agreed.high, label="Labelers agree", note="on a pair"
    )
    report.data("longer_wins_accuracy", learned["longer_wins"])


def notes(chain: FromText) -> list[str]:
    """What was not used, and where more is said."""
    filtered = chain.figures("texts-report")
    read, kept = (int(filtered[f"documents_{what}"]) for what in ("read", "kept"))
    _, left = text_files(chain.texts)
    return [
        f"The filter kept {kept:,} of {read:,} documents; texts-report/report.html says why, with examples.",
        *(f"{name}: {note}" for name in chain.stages for note in chain.figures(name)["notes"]),
        *(f"not read: {path.name}" for path in left),
        "Which part of the taste rose, and the worst losses, are in evaluation/report.html.",
    ]


def describe_phases(report: Report, chain: FromText, phases: Sequence[Phase]) -> None:
    """Side by side: what each costs the model in bits per byte, how its text reads, and the texts themselves."""
    signals = {each.name: asdict(text_signals(each.texts)) for each in phases}
    report.data(
        "phases",
        {
            each.name: {"bits_per_byte": each.bits_per_byte, "seconds": each.seconds, "text": signals[each.name]}
            for each in phases
        },
    )
    report.table(
        "Phase by phase",
        ["", "bits per byte", *(name.replace("_", " ") for name in SIGNALS), "seconds"],
        [
            [each.name, f"{each.bits_per_byte:.3f}"]
            + [f"{signals[each.name][name]:.2f}" for name in SIGNALS]
            + [f"{each.seconds:.0f}"]
            for each in phases
        ],
        f"Bits per byte of the beginnings of held-out documents, after each phase; the rest is of what it writes where "
        f"{len(phases[0].texts)} held-out openings go on.",
    )
    told = chain.read("held_out_passages.jsonl", Demonstration)[:SHOWN]
    rows = [
        {"opening": item.prompt.text.removeprefix(ASK), "the text itself": item.response.text}
        | {each.name: each.texts[number] for each in phases}
        for number, item in enumerate(told)
    ]
    report.data("texts", rows)
    report.side_by_side(
        "How each goes on",
        rows,
        "The first held-out prompts in the order of the seed, the same in every phase; each with its first response. "
        "The pretrained model is given the opening without the prompt around it and is cut off.",
    )


def phase(chain: FromText, name: str) -> Phase:
    """Measured, and made to write."""
    loaded = load_language_model(str(chain.out / name), precision=chain.precision)
    prompts, key = chain.held_out_prompts(), (chain.seed, "evaluation")
    if name == "pretrained":
        told = chain.read("held_out_passages.jsonl", Demonstration)
        texts = completed(loaded, told, chain, key)
    else:
        engine = local.LocalEngine(loaded.model, loaded.chat)
        texts = list(engine.generate(prompts, chain.sampling, num_responses=1, key=key).texts)
    return Phase(
        name=name,
        bits_per_byte=bits_per_byte(loaded, chain.out / "measured.jsonl"),
        texts=texts,
        seconds=float(chain.figures(name)["seconds"]),
    )


@torch.no_grad()
def completed(
    loaded: Loaded[LanguageModel], told: Sequence[Demonstration], chain: FromText, key: tuple[int | str, ...]
) -> list[str]:
    """How openings go on as raw text, with no conversation around them."""
    openings = [item.prompt.text.removeprefix(ASK) for item in told]
    chat = loaded.chat
    beginnings = [[chat.stop_id, *chat.text_tokens(opening)[:-1]] for opening in openings]
    drawn = [
        local.undrawn(number, Prompt.from_text(opening), 0, chain.sampling, key)
        for number, opening in enumerate(openings)
    ]
    for _ in local.steps(loaded.model, beginnings, drawn, chain.sampling, chat.stop_id):
        pass
    return [chat.text(response.tokens) for response in drawn]


def bits_per_byte(loaded: Loaded[LanguageModel], path: Path) -> float:
    """Of the documents of a file, as pretraining measures it."""
    documents = Documents.of(loaded.chat, read_texts(Data(path=str(path))).records)
    rows = Rows(documents, np.arange(len(documents)), LENGTH).everything().to(loaded.model.device)
    return measure(loaded.model, rows, documents.num_bytes, 4096)["pretrain/bits_per_byte"]
