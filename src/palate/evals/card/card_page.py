"""The card as a page: what a manager reads in a minute comes first, what a reviewer looks for follows.

In words what got better and worse; the picture of differences; the table of what is compared; how far both have gone
from where they began, beside a win rate; everything else that was measured; calibration; questions that were lost and
won, and responses side by side; how each section was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palate.evals.calibration import expected_error, reliability
from palate.evals.card import pictures
from palate.evals.card.compared import Row
from palate.evals.card.distances import Distances, describe_distances
from palate.evals.page import Report, format_number
from palate.evals.protocols.choices import BRIER
from palate.evals.protocols.items import Continuation, Item, Likelihood, Protocol, Said, Scores
from palate.intervals import Estimate
from palate.randomness import permutation
from palate.records import Prompt

SHOWN = 5
"""Questions lost and won, and prompts with their responses, chosen by the seed."""
ALWAYS = 0.9
"""A favourite that is the same in so many questions says nothing of them."""
_CORRECTED = (
    "A verdict is given where the probability, corrected for the number of comparisons in this table (Holm), is below "
    "5%: where nothing at all has changed, one such card in twenty gives any. Intervals are of each difference by "
    "itself, 95%, by question; what is not told apart may have changed by as much as its interval says. A trifle is a "
    "change that is sure and too small to matter: below 0.002 bits a byte, or 0.005 of a Brier score or of MC2."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section and what both models made of it.

    Attributes:
        protocol: how it was measured.
        path: of its file.
        items: those that were asked.
        total: items in the file.
        after, before: scores and answers of the model and of the baseline, if there is one.
        remarks: what was left out or cut.
    """

    protocol: Protocol
    path: str
    items: Sequence[Item]
    total: int
    after: tuple[Sequence[Scores], Sequence[Sequence[Likelihood | Said]]]
    before: tuple[Sequence[Scores], Sequence[Sequence[Likelihood | Said]]] | None
    remarks: Sequence[str]


def describe(
    report: Report, parts: Mapping[str, Part], rows: Sequence[Row], gone: Distances | None = None, *, seed: int
) -> None:
    """Fill the page; with how far both have gone, where that was measured."""
    compared = [row for row in rows if row.corrected is not None]
    if compared:
        _in_short(report, compared)
        caption = "Better is to the right; green: better, red: worse, orange: changed, grey: not told apart."
        report.figure("What changed", pictures.forest(compared), caption)
        _compared(report, compared)
    if gone is not None:
        won = next(row.after for row in rows if (row.section, row.measure.name) == ("win_rate", "won"))
        describe_distances(report, gone, won, seed=seed)
    _all_else(report, [row for row in rows if row.corrected is None])
    report.data("rows", [as_json(row) for row in rows])
    if lucky := [row for row in rows if row.measure.compared and row.is_luck]:
        lines = [*map(_lucky, lucky), "What is not told from guessing tells neither of a gain nor of a loss."]
        report.text("No better than a guess", "\n\n".join(lines))
    if told := [text for part in parts.values() if (text := _always_the_same(part))]:
        report.text("Always the same choice", "\n\n".join(told))
    _calibration(report, parts, seed)
    for name, part in parts.items():
        if part.before is not None:
            _examples(report, name, part, part.before, seed)
    _how(report, parts)


def _in_short(report: Report, rows: Sequence[Row]) -> None:
    """Numbers of verdicts, and a sentence for each kind."""
    verdicts = ("better", "worse", "changed", "a trifle")
    said = {verdict: [row for row in rows if row.verdict == verdict] for verdict in verdicts}
    open_ones = [row for row in rows if row.verdict == "not told apart"]
    for verdict, found in (*said.items(), ("not told apart", open_ones)):
        if found or verdict in ("better", "worse", "not told apart"):
            key = verdict.removeprefix("a ").replace(" ", "_")
            report.number(key, len(found), label=verdict.capitalize(), note=f"of {len(rows)} compared")
    sentences = [
        f"{verdict.capitalize()}: {'; '.join(_told(row) for row in found)}." if found else f"Nothing got {verdict}."
        for verdict, found in said.items()
        if found or verdict in ("better", "worse")
    ]
    if falls := [row for row in open_ones if row.measure.better != "neither"]:
        worst = min(falls, key=lambda row: pictures.turned(row).low or 0.0)
        sentences.append(
            f"Not told apart: {len(open_ones)}. Among them the interval that reaches furthest down is that of "
            f"{_told(worst)}."
        )
    report.text("In a minute", "\n\n".join(sentences))


def _told(row: Row) -> str:
    return f"{row.name}, {_difference(row)}"


def _difference(row: Row) -> str:
    assert row.change is not None
    found, unit = row.change.difference, row.measure.unit
    if found.value is None:
        return "undefined"
    if unit == "share":
        points = [None if end is None else 100 * end for end in (found.value, found.low, found.high)]
        return f"{_signed(points[0], 1)} points ({_signed(points[1], 1)} to {_signed(points[2], 1)})"
    digits = 1 if unit == "words" else 3
    ends = f"{_signed(found.low, digits)} to {_signed(found.high, digits)}"
    return f"{_signed(found.value, digits)} {unit} ({ends})"


def _signed(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:+.{digits}f}"


def _level(row: Row, found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "undefined"
    if row.measure.unit == "share":
        return f"{found.value:.1%}"
    return f"{found.value:.1f}" if row.measure.unit == "words" else f"{found.value:.3f}"


def _compared(report: Report, rows: Sequence[Row]) -> None:
    header = ["", "measure", "items", "before", "after", "difference", "p", "corrected", "verdict"]
    cells = [
        [
            row.title,
            _measure(row),
            row.num_items,
            _level(row, row.before),
            _level(row, row.after),
            _difference(row),
            *(_probability(p) for p in (None if row.change is None else row.change.p, row.corrected)),
            row.verdict,
        ]
        for row in rows
    ]
    report.table("Compared", header, cells, _CORRECTED)


def _measure(row: Row) -> str:
    return row.measure.label if row.luck is None else f"{row.measure.label} (by luck {row.luck:.1%})"


def _lucky(row: Row) -> str:
    """A measure by which no model is known to do better than guessing, and what each of them has."""
    levels = {"the model": row.after} if row.before is None else {"before": row.before, "after": row.after}
    told = ", ".join(f"{name} {found}" for name, found in levels.items())
    return f"{row.name}: by luck {row.luck:.3f}, {told}."


def _probability(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _all_else(report: Report, rows: Sequence[Row]) -> None:
    _else(report, [row for row in rows if row.change is not None], alone=False)
    _else(report, [row for row in rows if row.change is None], alone=True)


def _else(report: Report, rows: Sequence[Row], *, alone: bool) -> None:
    if not rows:
        return
    header = ["", "measure", "items", *(["value"] if alone else ["before", "after", "difference"])]
    cells = [
        [row.title, _measure(row), row.num_items]
        + ([f"{row.after}"] if alone else [_level(row, row.before), _level(row, row.after), _difference(row)])
        for row in rows
    ]
    caption = "With 95% intervals by item." if alone else "Beside what is compared; nothing here is corrected."
    report.table("Measured" if alone else "Also measured", header, cells, caption)


def _always_the_same(part: Part) -> str:
    """That a model's favourite hardly depends on the question though the right choice does; empty if it is not so."""
    key = _picked(part)
    found = []
    for name, scores in (("baseline", part.before[0] if part.before else ()), ("model", part.after[0])):
        if not scores or not all(key in score for score in scores):
            continue
        place, count = Counter(int(score[key]) for score in scores).most_common(1)[0]
        right = sum(int(score["gold"]) == place for score in scores)
        if count >= ALWAYS * len(scores) > right:
            told = f"prefers choice {place + 1} in {count:,} of {len(scores):,} questions"
            found.append(f"the {name} {told}; right would be that one in {right:,}")
    if not found:
        return ""
    return f"{part.protocol.title}: {'; '.join(found)}. That tells which choice is liked, and little of what is known."


def _picked(part: Part) -> str:
    """The score that is the place of the favourite, by the measure that counts."""
    return "picked_by_character" if part.protocol.measures[0].name == "acc_norm" else "picked"


def as_json(row: Row) -> dict[str, object]:
    """For the report's file of numbers."""
    found: dict[str, object] = {
        "section": row.section,
        "measure": row.measure.name,
        "items": row.num_items,
        "after": row.after.value,
        "after_low": row.after.low,
        "after_high": row.after.high,
    }
    if row.luck is not None:
        found["luck"] = row.luck
    if row.change is not None and row.before is not None:
        change = row.change
        found |= {
            "before": row.before.value,
            "difference": change.difference.value,
            "difference_low": change.difference.low,
            "difference_high": change.difference.high,
            "p": change.p,
            "test": change.test,
            "p_corrected": row.corrected,
            "verdict": row.verdict,
        }
    return found


def _calibration(report: Report, parts: Mapping[str, Part], seed: int) -> None:
    """How far the probabilities of choices hold, over all questions that have any."""
    chosen = [part for part in parts.values() if BRIER in part.protocol.measures]
    if not chosen:
        return
    models = {"before": [part.before for part in chosen if part.before], "after": [part.after for part in chosen]}
    bins = {}
    for name, found in models.items():
        scores = [score for each, _ in found for score in each]
        if scores:
            right = [float(score["picked"] == score["gold"]) for score in scores]
            sure = [score["confidence"] for score in scores]
            bins[name] = reliability(sure, right, np.arange(len(scores)), seed=seed)
    errors = {name: expected_error(each) for name, each in bins.items()}
    report.data("calibration_error", errors)
    told = ", ".join(f"{name} {format_number(error)}" for name, error in errors.items())
    report.figure(
        "Calibration of choices",
        pictures.reliability(bins),
        f"Over all questions with choices: how sure, and how often right. Expected calibration error: {told}.",
    )


def _examples(
    report: Report,
    name: str,
    part: Part,
    before: tuple[Sequence[Scores], Sequence[Sequence[Likelihood | Said]]],
    seed: int,
) -> None:
    """Questions that one of the two had right, or responses side by side."""
    order = permutation(len(part.items), seed, "card", "shown", name).tolist()
    (old, old_said), (new, new_said) = before, part.after
    if part.protocol.asks in ("prompts", "nothing"):
        texts = [
            {"prompt": prompt.text, "before": _first(old_said[place]), "after": _first(new_said[place])}
            for place in order[:SHOWN]
            for prompt in part.items[place].asked
            if isinstance(prompt, Prompt)
        ]
        if not texts:
            return
        report.side_by_side(f"{part.protocol.title}: responses, chosen at random", texts)
        return
    measure = part.protocol.measures[0].name
    if not all("picked" in score for score in (*old, *new)):
        return
    lost = [place for place in order if new[place][measure] < old[place][measure]]
    won = [place for place in order if new[place][measure] > old[place][measure]]
    rows = [
        {"": kind} | _question(part.items[place], old[place], new[place], _picked(part))
        for kind, places in (("lost", lost[:SHOWN]), ("won", won[:SHOWN]))
        for place in places
    ]
    if rows:
        caption = f"{len(lost)} lost, {len(won)} won, of {len(part.items)}; of each {SHOWN} at most, chosen at random."
        report.side_by_side(f"{part.protocol.title}: questions lost and won", rows, caption)


def _question(item: Item, old: Scores, new: Scores, picked: str) -> dict[str, object]:
    asked = [each for each in item.asked if isinstance(each, Continuation)]
    same = len({each.context for each in asked}) == 1
    texts = [each.text.strip() if same else each.context for each in asked]
    question = asked[0].context if same else f"... {asked[0].text.strip()}"
    return {
        "question": question,
        "right": texts[int(old["gold"])],
        "before": texts[int(old[picked])],
        "after": texts[int(new[picked])],
    }


def _first(said: Sequence[Likelihood | Said]) -> str:
    return next((each.text for each in said if isinstance(each, Said)), "")


def _how(report: Report, parts: Mapping[str, Part]) -> None:
    rows = [
        [
            part.protocol.title,
            f"{part.protocol.about} {' '.join(part.remarks)}".strip(),
            part.path,
            f"{len(part.items):,} of {part.total:,}",
        ]
        for part in parts.values()
    ]
    report.table("How it was measured", ["", "", "file", "items"], rows)
