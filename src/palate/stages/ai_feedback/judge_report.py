"""What is reported of a model that judged: does it go by the place, by the length, and does it agree with people?

Figures are per question, per pair or per comparison with a person; intervals are always by prompt.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from palate.evals import plots
from palate.evals.calibration import longer_wins
from palate.evals.report import Report
from palate.intervals import Estimate, ratio_estimate
from palate.records import Ranking
from palate.stages.ai_feedback.beside_people import BesidePeople, beside_people
from palate.stages.ai_feedback.both_orders import Asked, Judged

EXAMPLES = 6
"""Of verdicts, of flips, and of disagreements with people: the first so many, each of another prompt."""
ENDPOINT = ("endpoint/requests", "endpoint/tokens", "endpoint/from_cache")

Numbers = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPrinciple:
    """What was asked by one principle, or by all.

    Attributes:
        questions: two for each pair.
        first_place: how often the first place was chosen, of the questions that were answered.
        flips: share of pairs with another answer in each order.
        no_choice: share of questions without a choice.
    """

    name: str
    questions: int
    first_place: Estimate
    flips: Estimate
    no_choice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is reported.

    Attributes:
        numbers: by name.
        principles: each, in the order of the first question.
        beside: the model beside people; None where there are none.
    """

    numbers: Numbers
    principles: Sequence[ByPrinciple]
    beside: BesidePeople | None


def metrics(judged: Sequence[Judged]) -> dict[str, float]:
    """Of a step."""
    asked = [each for item in judged for each in item.asked]
    places = [place for each in asked for place in each.places]
    flips = [each.flips for each in asked if each.has_verdict]
    verdicts = [verdict for item in judged for _, verdict in item.verdicts()]
    shares: dict[str, Sequence[float]] = {
        "judge/first_place": places,
        "judge/flips": flips,
        "judge/preferred": [abs(verdict) for verdict in verdicts],
        "judge/no_choice": [share is None for each in asked for share in each.first],
    }
    return {name: sum(values) / len(values) for name, values in shares.items() if values}


def figures(judged: Sequence[Judged], people: Sequence[Ranking], *, model: str, seed: int) -> Figures:
    """From all verdicts.

    Args:
        people: their rankings; those of other prompts do not count.
        model: that judged.
    """
    every = _by_principle(judged, "", seed)
    names = dict.fromkeys(each.principle for item in judged for each in item.asked)
    principles = [_by_principle(judged, name, seed) for name in names]
    verdicts = [(item, pair, verdict) for item in judged for pair, verdict in item.verdicts()]
    ordered = [(item, pair[::verdict]) for item, pair, verdict in verdicts if verdict]
    texts = [(item.responses[better].text, item.responses[worse].text) for item, (better, worse) in ordered]
    longer = longer_wins(texts, [item.prompt.id for item, _ in ordered], seed=seed)
    numbers: Numbers = {
        "prompts": len(judged),
        "questions": every.questions,
        "pairs": len(verdicts),
        "ties": len(verdicts) - len(ordered),
        **with_interval("first_place", every.first_place),
        **with_interval("flips", every.flips),
        **with_interval("longer_preferred", longer),
        "no_choice": every.no_choice,
        "pairs_left_out": sum(item.left_out for item in judged),
    }
    beside = None
    if people:
        rankings = [ranking for item in judged for ranking in item.rankings(model=model, constitution="")]
        beside = beside_people(rankings, people, seed=seed)
        numbers |= with_interval("agreement_with_people", beside.with_people)
        numbers |= with_interval("agreement_of_people", beside.of_people)
        numbers |= with_interval("agreement_of_ties", beside.of_ties)
        numbers |= with_interval("agreement_of_longer", beside.of_longer)
    return Figures(numbers=numbers, principles=principles, beside=beside)


def totals(path: Path) -> Numbers:
    """What an endpoint was asked in all finished steps, from the rows of ``metrics.jsonl``; nothing without one."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        name.partition("/")[2]: sum(row[name] for row in rows) for name in ENDPOINT if any(name in row for row in rows)
    }


def with_interval(name: str, estimate: Estimate) -> Numbers:
    """A number and the ends of its interval."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _by_principle(judged: Iterable[Judged], name: str, seed: int) -> ByPrinciple:
    """Of one principle; of all, if none is named."""
    found = {item.prompt.id: [each for each in item.asked if name in ("", each.principle)] for item in judged}
    places = [[place for each in asked for place in each.places] for asked in found.values()]
    flips = [[each.flips for each in asked if each.has_verdict] for asked in found.values()]
    questions = 2 * sum(map(len, found.values()))
    return ByPrinciple(
        name=name,
        questions=questions,
        first_place=_share(places, seed),
        flips=_share(flips, seed),
        no_choice=1 - sum(map(len, places)) / questions if questions else 0.0,
    )


def _share(by_prompt: Sequence[Sequence[float]], seed: int) -> Estimate:
    return ratio_estimate([sum(each) for each in by_prompt], [len(each) for each in by_prompt], seed=seed, share=True)


def add_parts(report: Report, found: Figures, judged: Sequence[Judged]) -> None:
    """Pictures, tables and examples."""
    report.text("Whose judgements these are", "A model's, no person's: every ranking says so in source and labeler.")
    labels = [each.name for each in found.principles]
    unit = "share that chose the answer in the first place; 50% is no preference for a place"
    places = [each.first_place for each in found.principles]
    report.figure("Does it go by the place?", plots.bars_with_intervals(labels, places, unit=unit))
    header = ["principle", "questions", "first place", "flips", "no choice"]
    rows = [
        [each.name, each.questions, str(each.first_place), str(each.flips), f"{each.no_choice:.3f}"]
        for each in found.principles
    ]
    caption = "A flip is another answer in each order. 95% intervals, by prompt."
    report.table("By principle", header, rows, caption)
    report.data(
        "by_principle",
        {
            each.name: {
                "questions": each.questions,
                "no_choice": each.no_choice,
                **with_interval("first_place", each.first_place),
                **with_interval("flips", each.flips),
            }
            for each in found.principles
        },
    )
    reasons = Counter(reason for item in judged for each in item.asked for reason in each.reasons)
    if reasons:
        report.table("Questions without a choice", ["why", "how many"], reasons.most_common())
    if found.beside is not None:
        _add_people(report, found.beside)
    report.side_by_side("The first verdicts", _shown(judged, lambda each, verdict: verdict != 0))
    report.side_by_side("The first flips", _shown(judged, lambda each, verdict: each.flips))


def _add_people(report: Report, beside: BesidePeople) -> None:
    estimates = {
        "the model with people": beside.with_people,
        "a tie every time, with people": beside.of_ties,
        "the longer answer, with people": beside.of_longer,
        "people with each other": beside.of_people,
    }
    picture = plots.bars_with_intervals(list(estimates), list(estimates.values()), unit="share of equal verdicts")
    caption = (
        f"On the same prompts: {beside.num_with_people:,} verdicts of the model beside a person's, "
        f"{beside.num_of_people:,} of two persons. A tie against a preference is one half."
    )
    report.figure("Does it agree with people?", picture, caption)
    report.text("", verdict_on(beside))
    rows = [[name, with_model, with_people] for name, with_model, with_people in beside.labelers]
    report.table("Person by person", ["who", "with the model", "with other people"], rows)
    report.data("people", {name: {"with_model": one, "with_people": other} for name, one, other in beside.labelers})


def verdict_on(beside: BesidePeople) -> str:
    """What the agreement says of the judge; empty if judge and people did not meet."""
    mine, people = beside.with_people.value, beside.of_people
    floors = {"calling every pair a tie": beside.of_ties.value, "preferring the longer answer": beside.of_longer.value}
    known = {name: value for name, value in floors.items() if value is not None}
    if mine is None or not known:
        return ""
    name, floor = max(known.items(), key=lambda item: item[1])
    beside_floor = f"{name} does: {mine:.3f} beside {floor:.3f}"
    if mine > floor:
        return f"It agrees with people more than {beside_floor}; people agree with each other in {people}."
    return (
        f"It agrees with people no more than {beside_floor}. As a judge of these it is worth nothing. One worth asking "
        f"agrees more than that, and comes near people with each other: {people}."
    )


def _shown(judged: Iterable[Judged], wanted: Callable[[Asked, int], bool]) -> list[dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    for item in judged:
        for each in item.asked:
            verdict = item.verdict_of(each) if each.has_verdict else 0
            if wanted(each, verdict) and item.prompt.id not in rows and len(rows) < EXAMPLES:
                better, worse = each.pair[:: verdict or 1]
                rows[item.prompt.id] = {
                    "prompt": item.prompt.text,
                    "principle": each.principle,
                    "preferred" if verdict else "one": item.responses[better].text,
                    "the other": item.responses[worse].text,
                    "for the first place": " and ".join(f"{share:.2f}" for share in each.first if share is not None),
                }
    return list(rows.values())
