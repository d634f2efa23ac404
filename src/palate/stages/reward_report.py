"""What a reward model turned out to know, on prompts that it did not learn from: by objective, by head and together.

An order is told right or wrong, a rating more or less exactly, a flag told apart from its absence or not. Of an
ensemble three things are said: how good each member is, how good their mean, and whether their disagreement foretells
where the mean is wrong; if it does not, no conservative reward can be made of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.corpus.pairs import Lesson, ordered_pairs
from palate.evals import plots
from palate.evals.calibration import Calibration, accuracy, calibration, longer_wins
from palate.evals.discrimination import area_under_curve, by_quarter
from palate.evals.page import format_number
from palate.evals.report import Report
from palate.feedback.statistics.pairwise_agreement import Agreement, agreement
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.objectives.pointwise import rating_log_probabilities
from palate.rewards.heads import Head
from palate.stages.comparisons import ComparedResponses
from palate.stages.teaching import Lessons

Numbers = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The strictly ordered held-out pairs of an objective.

    Attributes:
        margins: [N, M], by each member of its ensemble, better minus worse.
        prompts: [N], their ids.
        texts: [N], better and worse.
        sources: [N], where the judgements come from.
    """

    margins: Floats
    prompts: Sequence[str]
    texts: Sequence[tuple[str, str]]
    sources: Sequence[str]

    @property
    def mean(self) -> Floats:
        """[N] margins of the mean of the members."""
        mean: Floats = self.margins.mean(1)
        return mean

    @property
    def disagreement(self) -> Floats:
        """[N] the spread of the members' claims of how often the first is preferred; from 0 to 1/2."""
        claims: Floats = 0.5 * (1 + np.tanh(self.margins / 2))
        apart: Floats = claims.std(1)
        return apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What was said of single held-out responses: ratings, or flags.

    Attributes:
        raw: [N, M], by each member.
        labels: [N].
        prompts: [N], their ids.
    """

    raw: Floats
    labels: Floats
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Of one objective.

    Attributes:
        heads: [M], its ensemble.
        numbers: for the report, by name.
        reliability: of the order that it foretells.
    """

    name: str
    heads: Sequence[Head]
    orders: Orders | None
    labels: Labels | None
    numbers: Numbers
    reliability: Calibration | None


def measure(
    raw: Tensor, responses: ComparedResponses, lessons: Lessons, heads: Sequence[Head], *, seed: int
) -> tuple[Numbers, list[Finding], Agreement]:
    """All that is reported of the heads' outputs [B, H] for held-out responses [B].

    The numbers of a single objective have plain names, those of several begin with the objective's.
    """
    said = [lesson for ranking in responses.rankings for lesson in lessons(ranking)]
    agreed = agreement(responses.rankings, seed=seed)
    members = len(heads) // len(lessons.objectives)
    findings = [
        _finding(
            objective.name,
            raw[:, number * members : (number + 1) * members].double().cpu().numpy(),
            [lesson for lesson in said if lesson.objective == number],
            responses,
            heads[number * members : (number + 1) * members],
            seed,
        )
        for number, objective in enumerate(lessons.objectives)
    ]
    numbers = {
        name if len(findings) == 1 else f"{finding.name}_{name}": value
        for finding in findings
        for name, value in finding.numbers.items()
    }
    people: Numbers = {"agreement": agreed.percent, "agreement_low": agreed.low, "agreement_high": agreed.high}
    return numbers | people, findings, agreed


def _finding(
    name: str, raw: Floats, lessons: Sequence[Lesson], responses: ComparedResponses, heads: Sequence[Head], seed: int
) -> Finding:
    ordered, labelled = ([lesson for lesson in lessons if (lesson.labels is None) == ranks] for ranks in (True, False))
    numbers: Numbers = {}
    orders = labels = reliability = None
    if ordered or not labelled:
        orders = _orders(raw, ordered, responses)
        reliability = calibration(orders.mean, orders.prompts, seed=seed)
        numbers |= _of_orders(orders, reliability, seed)
    if labelled:
        labels = _labels(raw, labelled, responses)
        numbers |= _of_flags(labels, seed) if heads[0].flag else _of_ratings(labels, heads, seed)
    return Finding(name=name, heads=heads, orders=orders, labels=labels, numbers=numbers, reliability=reliability)


def _orders(raw: Floats, lessons: Sequence[Lesson], responses: ComparedResponses) -> Orders:
    pairs = [(lesson.ranking, *pair) for lesson in lessons for pair in ordered_pairs(lesson.ranking)]
    texts = [(ranking.responses[better].text, ranking.responses[worse].text) for ranking, better, worse in pairs]
    prompts = [ranking.prompt.id for ranking, *_ in pairs]
    rows = [[responses.row_of[prompt, text] for text in both] for prompt, both in zip(prompts, texts, strict=True)]
    better, worse = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    sources = [ranking.source for ranking, *_ in pairs]
    return Orders(margins=raw[better] - raw[worse], prompts=prompts, texts=texts, sources=sources)


def _labels(raw: Floats, lessons: Sequence[Lesson], responses: ComparedResponses) -> Labels:
    said = [
        (lesson.ranking.prompt.id, response.text, label)
        for lesson in lessons
        for response, label in zip(lesson.ranking.responses, lesson.labels or (), strict=True)
    ]
    rows = [responses.row_of[prompt, text] for prompt, text, _ in said]
    return Labels(
        raw=raw[rows], labels=np.array([label for *_, label in said]), prompts=[prompt for prompt, *_ in said]
    )


def by_source(orders: Orders, *, seed: int) -> dict[str, Numbers]:
    """The accuracy of the pairs of each source, beside the longer response's; the source with most pairs first."""
    found: dict[str, Numbers] = {}
    for source, count in Counter(orders.sources).most_common():
        rows = [row for row, each in enumerate(orders.sources) if each == source]
        prompts = [orders.prompts[row] for row in rows]
        right = accuracy(orders.mean[rows], prompts, seed=seed)
        longer = longer_wins([orders.texts[row] for row in rows], prompts, seed=seed)
        counts: Numbers = {"held_out_pairs": count, "held_out_prompts": len(set(prompts))}
        found[source] = _with_interval("accuracy", right) | {"longer_wins": longer.value} | counts
    return found


def _of_orders(orders: Orders, reliability: Calibration, seed: int) -> Numbers:
    """Accuracy beside the longer response's; of an ensemble also its members', and what its disagreement is worth."""
    right, longer = (
        accuracy(orders.mean, orders.prompts, seed=seed),
        longer_wins(orders.texts, orders.prompts, seed=seed),
    )
    numbers: Numbers = _with_interval("accuracy", right) | {
        "longer_wins": longer.value,
        "calibration_error": reliability.error,
        "log_loss": reliability.log_loss,
        "held_out_pairs": len(orders.prompts),
        "held_out_prompts": len(set(orders.prompts)),
    }
    if orders.margins.shape[1] == 1 or not orders.prompts:
        return numbers
    members = [accuracy(member, orders.prompts, seed=seed).value for member in orders.margins.T]
    known = [value for value in members if value is not None]
    foretold = area_under_curve(orders.disagreement, orders.mean <= 0, orders.prompts, seed=seed)
    return numbers | {
        "accuracy_of_one_head": float(np.mean(known)),
        "disagreement": float(orders.disagreement.mean()),
        **_with_interval("disagreement_foretells_error", foretold),
    }


def _of_flags(labels: Labels, seed: int) -> Numbers:
    """How well the mean log-odds tell flagged responses from others, and how honest the probability is."""
    raw = labels.raw.mean(1)
    right = area_under_curve(raw, labels.labels, labels.prompts, seed=seed)
    losses = np.logaddexp(0, raw) - labels.labels * raw
    return _with_interval("flag_auc", right) | {
        "flag_log_loss": float(losses.mean()),
        "flag_share": float(labels.labels.mean()),
        "flag_predicted": float((1 / (1 + np.exp(-raw))).mean()),
        "held_out_labels": len(labels.labels),
    }


def _of_ratings(labels: Labels, heads: Sequence[Head], seed: int) -> Numbers:
    """How far the expected rating is from the one that was given, beside that of one rating for all."""
    expected = np.mean([_expected(column, head) for column, head in zip(labels.raw.T, heads, strict=True)], axis=0)
    errors, constant = np.abs(expected - labels.labels), np.abs(np.median(labels.labels) - labels.labels)
    prompts = np.unique(np.asarray(labels.prompts, dtype=np.str_), return_inverse=True)[1]
    error = ratio_estimate(np.bincount(prompts, weights=errors), np.bincount(prompts), seed=seed)
    return _with_interval("rating_error", error) | {
        "rating_error_of_median": float(constant.mean()),
        "held_out_ratings": len(labels.labels),
    }


def _expected(raw: Floats, head: Head) -> Floats:
    """[N] the mean rating that a head foretells."""
    log_probabilities = rating_log_probabilities(
        torch.from_numpy(np.ascontiguousarray(raw)), torch.tensor(head.thresholds, dtype=torch.float64)
    )
    expected: Floats = (log_probabilities.exp() * torch.arange(1, len(head.thresholds) + 2)).sum(1).numpy()
    return expected


def _with_interval(name: str, estimate: Estimate) -> Numbers:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def add_pictures(report: Report, findings: Sequence[Finding], agreed: Agreement, *, seed: int) -> None:
    """The stage's own parts of the report."""
    for finding in findings:
        about = "" if len(findings) == 1 else f"{finding.name}: "
        if finding.reliability is not None:
            picture = plots.calibration(finding.reliability)
            report.figure(f"{about}Does it know how sure it is?", picture, "Held-out pairs.")
        if finding.orders is not None and finding.orders.prompts:
            prefix = "" if len(findings) == 1 else f"{finding.name}_"
            _add_sources(report, about, prefix, by_source(finding.orders, seed=seed))
        if finding.orders is not None and finding.orders.margins.shape[1] > 1 and finding.orders.prompts:
            _add_ensemble(report, about, finding.orders, seed)
        if finding.labels is not None and finding.heads[0].flag:
            _add_flag(report, about, finding.labels, finding.heads[0].flag, seed)
    if len(agreed.labelers) > 1:
        names = [labeler.name for labeler in agreed.labelers]
        matrix = plots.agreement_matrix(names, agreed.matrix(names))
        report.figure("Do the labelers agree?", matrix, "Held-out prompts.")


def _add_sources(report: Report, about: str, prefix: str, sources: Mapping[str, Numbers]) -> None:
    """What it knows of people's judgements, and of those that were mined, simulated or made by a model."""
    report.data(f"{prefix}accuracy_by_source", dict(sources))
    header = ["source", "pairs", "prompts", "accuracy", "from", "to", "the longer one wins"]
    keys = ("held_out_pairs", "held_out_prompts", "accuracy", "accuracy_low", "accuracy_high", "longer_wins")
    rows = [[source, *(format_number(numbers[key]) for key in keys)] for source, numbers in sources.items()]
    report.table(f"{about}Accuracy by source of the judgements", header, rows, "Held-out pairs, 95% intervals.")


def _add_ensemble(report: Report, about: str, orders: Orders, seed: int) -> None:
    """Each member beside their mean, and how often the mean is right where they agree and where they do not."""
    members = [accuracy(member, orders.prompts, seed=seed) for member in orders.margins.T]
    together = accuracy(orders.mean, orders.prompts, seed=seed)
    labels = [*(f"head {number}" for number in range(1, len(members) + 1)), "their mean"]
    picture = plots.bars_with_intervals(labels, [*members, together], unit="accuracy on held-out pairs")
    report.figure(f"{about}Each head, and all together", picture)
    right = (np.sign(orders.mean) + 1) / 2
    quarters = by_quarter(orders.disagreement, right, orders.prompts, seed=seed)
    picture = plots.bars_with_intervals(
        [f"disagreement {low:.3f} to {high:.3f}" for low, high, _ in quarters],
        [estimate for *_, estimate in quarters],
        unit="accuracy of the mean on a quarter of the pairs",
    )
    report.figure(
        f"{about}Does disagreement foretell error?",
        picture,
        "Disagreement is the spread over heads of the claimed probability that the first is preferred.",
    )


def _add_flag(report: Report, about: str, labels: Labels, flag: str, seed: int) -> None:
    """How often the flag was set in each quarter of the responses by its predicted probability."""
    predicted = 1 / (1 + np.exp(-labels.raw.mean(1)))
    quarters = by_quarter(predicted, labels.labels, labels.prompts, seed=seed)
    picture = plots.bars_with_intervals(
        [f"predicted {low:.1%} to {high:.1%}" for low, high, _ in quarters],
        [estimate for *_, estimate in quarters],
        unit=f"share of responses flagged {flag}",
    )
    report.figure(f"{about}Is it flagged where it was foretold?", picture, "Held-out responses, in quarters.")
