"""A judge held against people: by category, by length, and a win rate corrected for its errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palate.errors import DataError
from palate.evals import plots
from palate.evals.calibration import longer_wins
from palate.evals.report import Report
from palate.feedback.statistics.prediction_powered import Corrected, corrected_mean
from palate.intervals import Estimate
from palate.records import Candidates, Ranking
from palate.stages.ai_feedback.beside_people import BesidePeople, beside_people

Pair = tuple[str, str, str]
"""The prompt's id, and the texts of the first answer and of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What is known of a judge beside people.

    Attributes:
        categories: by the value of the tag; empty where none is named.
        longer: how often people prefer the longer answer, of the pairs that the judge has judged.
        win_rate: of the first answer of each record; None where that was not asked for.
    """

    categories: dict[str, BesidePeople]
    longer: Estimate
    win_rate: Corrected | None


def calibrated(
    judged: Sequence[Ranking], people: Sequence[Ranking], pairs: Sequence[Pair], *, category: str, seed: int
) -> Calibrated:
    """From the judge's rankings and people's.

    Args:
        pairs: of each record, if the win rate of its first answer is asked for.
        category: a tag of the prompts; empty: none.
    """
    subjects = {_subject(ranking) for ranking in judged}
    theirs = [ranking for ranking in people if len(ranking.responses) == 2 and _subject(ranking) in subjects]
    ordered = [(ranking, *ranking.pairs[0]) for ranking in theirs if ranking.pairs]
    texts = [(ranking.responses[better].text, ranking.responses[worse].text) for ranking, better, worse in ordered]
    return Calibrated(
        categories=by_category(judged, people, category, seed=seed) if category else {},
        longer=longer_wins(texts, [ranking.prompt.id for ranking, *_ in ordered], seed=seed),
        win_rate=win_rate(judged, theirs, pairs) if pairs else None,
    )


def by_category(
    judged: Sequence[Ranking], people: Sequence[Ranking], category: str, *, seed: int
) -> dict[str, BesidePeople]:
    """The judge beside people, for each value of a tag."""
    parts: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in judged:
        parts[ranking.prompt.tags.get(category, "")].append(ranking)
    return {value or "without it": beside_people(part, people, seed=seed) for value, part in sorted(parts.items())}


def check_category(records: Iterable[Candidates], category: str) -> None:
    """Raises:
    DataError: no prompt has the tag.
    """
    if category and not any(record.prompt.tags.get(category) for record in records):
        raise DataError(f"category: no prompt has the tag {category!r}; name the column in candidates.tags")


def pairs_of(records: Iterable[Candidates]) -> list[Pair]:
    """The first and the second answer of each record.

    Raises:
        DataError: a record has not two different answers, or two records have the same pair in either order.
    """
    found: dict[Pair, None] = {}
    for record in records:
        texts = list(dict.fromkeys(response.text for response in record.responses))
        if len(texts) != 2:
            raise DataError(
                f"win_rate_of_first is of pairs, but a record has {len(texts)} different answers: "
                f"{record.prompt.text[:60]!r}"
            )
        found[record.prompt.id, texts[0], texts[1]] = None
    for prompt, one, other in found:
        if (prompt, other, one) in found:
            raise DataError(
                f"win_rate_of_first: a pair is there in both orders, so that neither is first: {one[:60]!r}"
            )
    return list(found)


def win_rate(judged: Sequence[Ranking], people: Sequence[Ranking], pairs: Sequence[Pair]) -> Corrected:
    """How often people would prefer the first answer, ties half."""
    by_judge = {_subject(ranking): _for(ranking) for ranking in judged}
    by_people: dict[tuple[str, frozenset[str]], list[dict[str, float]]] = defaultdict(list)
    for ranking in people:
        by_people[_subject(ranking)].append(_for(ranking))
    known = [(pair, (pair[0], frozenset(pair[1:]))) for pair in pairs]
    known = [(pair, subject) for pair, subject in known if subject in by_judge]
    votes = [[each[pair[1]] for each in by_people[subject]] for pair, subject in known]
    return corrected_mean(
        [by_judge[subject][pair[1]] for pair, subject in known],
        [sum(each) / len(each) if each else math.nan for each in votes],
        [pair[0] for pair, _ in known],
    )


def add_calibrated(report: Report, found: Calibrated, longer_by_judge: Estimate) -> None:
    """Tables and pictures."""
    report.table(
        "Does it go by the length more than people do?",
        ["who", "prefers the longer answer"],
        [["the model", str(longer_by_judge)], ["people, of the same pairs", str(found.longer)]],
        "Of verdicts that are no ties. 95% intervals, by prompt.",
    )
    if found.categories:
        rows = [
            [name, each.num_prompts, str(each.with_people), str(each.of_people), str(each.of_longer)]
            for name, each in found.categories.items()
        ]
        header = ["category", "prompts", "the model with people", "people with each other", "the longer answer"]
        report.table("Agreement by category", header, rows, "Share of equal verdicts, a lone tie counting one half.")
        report.data(
            "by_category",
            {
                name: {"agreement_with_people": each.with_people.value, "agreement_of_people": each.of_people.value}
                for name, each in found.categories.items()
            },
        )
    if found.win_rate is not None:
        rate = found.win_rate
        estimates = {
            "the model alone": rate.judge,
            f"people alone, {rate.judged_by_people} pairs": rate.people,
            "the model, corrected by people": rate.corrected,
        }
        worth = "" if rate.worth is None else f" It is worth {rate.worth:.2f} times as many verdicts of people."
        report.figure(
            "How often is the first answer preferred?",
            plots.bars_with_intervals(list(estimates), list(estimates.values()), unit="win rate of the first answer"),
            f"Of {rate.judged} pairs. The interval of the model alone knows nothing of its errors. Corrected, it "
            f"counts {rate.trust:.2f} (1: as good as people, 0: not at all).{worth} The pairs that people judged must "
            "have been drawn by lot.",
        )


def numbers_of(found: Calibrated) -> dict[str, float | None]:
    """For the report's file."""
    named = {"longer_preferred_by_people": found.longer}
    numbers: dict[str, float | None] = {}
    if found.win_rate is not None:
        rate = found.win_rate
        named |= {"win_rate": rate.judge, "win_rate_of_people": rate.people, "win_rate_corrected": rate.corrected}
        numbers = {"judge_counts": rate.trust, "pairs_of_people": rate.judged_by_people, "judge_is_worth": rate.worth}
    for name, each in named.items():
        numbers |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return numbers


def _subject(ranking: Ranking) -> tuple[str, frozenset[str]]:
    """What a ranking of two answers is about."""
    return ranking.prompt.id, frozenset(response.text for response in ranking.responses)


def _for(ranking: Ranking) -> dict[str, float]:
    """How far it is for each of two answers: 1, 0, or one half."""
    one, other = ranking.ranks
    share = 0.5 + 0.5 * ((one < other) - (one > other))
    first, second = (response.text for response in ranking.responses)
    return {first: share, second: 1 - share}
