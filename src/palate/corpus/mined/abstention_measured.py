"""What a model says where it knows and where it cannot know, before and after: numbers, a picture and texts to read.

The responses are those that `palate sample` wrote, the known answers a file beside it; no model is run here. Whether a
response says that it does not know is told by patterns (`lists/unsure.txt`), whether it is right by the words of the
answer (`known_answers.py`); the measures are in `evals/abstaining.py`. Left out: whether what is said about a question
without an answer is sound, which patterns cannot see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from palate.corpus.mined.known_answers import is_right, read_answers
from palate.corpus.mined.phrases import Patterns, patterns
from palate.corpus.reading import read_candidates
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.evals import plots
from palate.evals.abstaining import Answered, abstention, abstention_beside, abstention_changes
from palate.evals.page import Report
from palate.intervals import Estimate
from palate.randomness import permutation
from palate.recipe import AbstentionMeasuring, Data
from palate.records import text_id

SHOWN = 8
"""Questions of each kind, with what was said to them, drawn by the seed."""

MEANING: Mapping[str, str] = {
    "f1": "F1 of saying so",
    "precision": "says so, and nobody can know",
    "recall": "nobody can know, and says so",
    "confident_wrong": "wrong without saying so",
    "right": "right, where it can be",
    "unsure_answerable": "says so, though it can be known",
    "right_when_answering": "right, of what is not withheld",
    "kept": "right before, and right still",
    "withheld": "right before, and withheld now",
}
"""As they stand on the page; short enough for a picture with `before` or `after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A model's responses to a question, and whether any was cut off."""

    question: str
    texts: Sequence[str]
    cut_off: int


@dataclass(slots=True, kw_only=True)
class AbstentionMeasured:
    """What was found.

    Attributes:
        found, before: by measure; empty where no model before was named.
        changes, beside: of the two models.
        read: how much of each kind of thing.
        left_out: reason -> questions.
        shown: texts, with what they count as.
    """

    found: Mapping[str, Estimate]
    before: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]
    beside: Mapping[str, Estimate]
    read: Counter[str]
    left_out: Counter[str]
    shown: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name:<22} {estimate}   {MEANING.get(name, '')}" for name, estimate in self.found.items()]
        lines += [f"{name + ', change':<22} {_signed(estimate)}" for name, estimate in self.changes.items()]
        lines += [f"{name:<22} {estimate}   {MEANING[name]}" for name, estimate in self.beside.items()]
        lines += ["read " + ", ".join(f"{count:,} {name}" for name, count in self.read.items())]
        return "\n".join([*lines, *(f"left out {count:,} questions: {why}" for why, count in self.left_out.items())])

    def page(self, title: str) -> Report:
        """For people; the same figures for programs."""
        report = Report(title, ", ".join(f"{count:,} {name}" for name, count in self.read.items()))
        for name, estimate in {**self.found, **self.beside}.items():
            label = MEANING.get(name, "F1 of a model that always says so")
            report.number(name, estimate.value, low=estimate.low, high=estimate.high, label=label)
        report.data("before", {name: _as_json(estimate) for name, estimate in self.before.items()})
        report.data("change", {name: _as_json(estimate) for name, estimate in self.changes.items()})
        report.data("read", dict(self.read))
        report.data("left_out", dict(self.left_out))
        report.figure("What it says", self.picture(), "95% intervals, by question.")
        if self.changes:
            rows = [[MEANING[n], str(self.before[n]), str(self.found[n]), _signed(c)] for n, c in self.changes.items()]
            header = ["", "before", "after", "change"]
            report.table(
                "Before and after", header, rows, "95% intervals; of the change by pairs, question by question."
            )
        if self.left_out:
            report.table("Questions left out", ["why", "how many"], list(self.left_out.items()))
        for kind, rows_ in self.shown.items():
            report.side_by_side(f"Drawn by the seed: {kind}", rows_)
        return report

    def picture(self) -> str:
        """Bars: of each measure before and after, and of what was kept."""
        bars: dict[str, Estimate] = {}
        for name, estimate in self.found.items():
            if name in MEANING:
                bars |= {f"{MEANING[name]}, before": self.before[name]} if self.before else {}
                bars[f"{MEANING[name]}, after" if self.before else MEANING[name]] = estimate
        bars |= {MEANING[name]: estimate for name, estimate in self.beside.items()}
        return plots.bars_with_intervals(list(bars), list(bars.values()))


def measure_abstention(
    path: Path | str, settings: AbstentionMeasuring, *, before: Path | str | None = None
) -> AbstentionMeasured:
    """Measure the responses of a file, beside those of a model before if there are any.

    Raises:
        DataError: a file cannot be read, or nothing in it is among the questions with answers.
    """
    read: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    rejections = Rejections()
    answers = read_answers(settings.answers, read, rejections)
    left_out["rows of the answers that hold none"] = rejections.total
    files = {"before": before, "after": path} if before else {"after": path}
    said = {name: responses_of(file) for name, file in files.items()}
    asked = [key for key in said["after"] if key in answers and all(key in each for each in said.values())]
    everything = dict.fromkeys(key for each in said.values() for key in each)
    left_out["not among the questions with answers"] = sum(key not in answers for key in everything)
    left_out["answered by one of the two models alone"] = len(everything.keys() & answers.keys()) - len(asked)
    if not asked:
        raise DataError(f"nothing in it is among the questions of {settings.answers}", path=path)
    read["questions measured"] = len(asked)
    read["of them without an answer"] = sum(not answers[key] for key in asked)
    for name, each in said.items():
        read[f"responses {name}"] = sum(len(each[key].texts) for key in asked)
        read[f"cut off {name}"] = sum(each[key].cut_off for key in asked)

    unsure = patterns(settings.patterns, "unsure.txt")
    kinds = {
        name: {key: [kind_of(text, answers[key], settings.match, unsure) for text in each[key].texts] for key in asked}
        for name, each in said.items()
    }
    found = {name: answered(each, answers) for name, each in kinds.items()}
    after, first, seed = found["after"], found.get("before"), settings.seed
    return AbstentionMeasured(
        found=abstention(after, seed=seed),
        before=abstention(first, seed=seed) if first else {},
        changes=abstention_changes(first, after, seed=seed) if first else {},
        beside=abstention_beside(first, after, seed=seed) if first else {},
        read=read,
        left_out=+left_out,
        shown={
            title: examples([key for key in asked if bool(answers[key]) == known], said, kinds, answers, seed)
            for title, known in (("questions with an answer", True), ("questions that nobody can answer", False))
        },
    )


def answered(kinds: Mapping[str, Sequence[str]], answers: Mapping[str, frozenset[str]]) -> Answered:
    """What each question's responses count as, as shares."""
    return Answered(
        right=np.array([each.count("right") / len(each) for each in kinds.values()]),
        unsure=np.array([each.count("unsure") / len(each) for each in kinds.values()]),
        answerable=np.array([bool(answers[key]) for key in kinds]),
    )


def examples(
    asked: Sequence[str],
    said: Mapping[str, Mapping[str, Said]],
    kinds: Mapping[str, Mapping[str, Sequence[str]]],
    answers: Mapping[str, frozenset[str]],
    seed: int,
) -> list[dict[str, object]]:
    """Some of the questions by the seed, with what is known, each model's first response and what it counts as."""
    rows = []
    for place in permutation(len(asked), seed, "shown")[:SHOWN].tolist():
        key = asked[place]
        row: dict[str, object] = {"question": said["after"][key].question}
        row |= {"known": " | ".join(sorted(answers[key])[:3])} if answers[key] else {}
        for name, each in said.items():
            row |= {name: each[key].texts[0], f"counts {name} as": kinds[name][key][0]}
        rows.append(row)
    return rows


def kind_of(text: str, answers: frozenset[str], match: str, unsure: Patterns) -> str:
    """`right`, `unsure` or `wrong`; what gives an answer and doubts it all the same is right."""
    if is_right(text, answers, match):
        return "right"
    return "unsure" if unsure.find(text) else "wrong"


def responses_of(path: Path | str) -> dict[str, Said]:
    """By `text_id` of the question; those of several rows are put together."""
    found: dict[str, Said] = {}
    for item in read_candidates(Data(path=str(path))).records:
        key = text_id(item.prompt.text)
        known = found.get(key, Said(question=item.prompt.text, texts=(), cut_off=0))
        cut = sum(each.provenance is not None and not each.provenance.ended for each in item.responses)
        texts = (*known.texts, *(each.text for each in item.responses))
        found[key] = Said(question=known.question, texts=texts, cut_off=known.cut_off + cut)
    return found


def _signed(estimate: Estimate) -> str:
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return "undefined"
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _as_json(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
