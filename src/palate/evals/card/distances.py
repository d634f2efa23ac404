"""How far two models have gone from a common start, beside who won: a win that took more nats may be no better way.

    KL(model || start)    mean over responses that the model drew of log p(response | model) - log p(response | start):
                          the estimator k1 (Schulman 2020), unbiased and of either sign; nothing is clamped
    for a token           the same sum divided by the number of tokens drawn, which is not a mean of ratios

Intervals are by prompt. A model whose weights are the start's has gone nowhere, and nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palate.evals.page import Report
from palate.evals.protocols.items import Said
from palate.intervals import Estimate, Floats, ratio_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """One model's way from the start, on N prompts.

    Attributes:
        nats: [N] of the mean response.
        tokens: [N] in the mean response.
        is_start: its weights are the start's, so that all of it is 0 by definition.
    """

    nats: Floats
    tokens: Floats
    is_start: bool = False

    def per_response(self, seed: int) -> Estimate:
        """In nats."""
        return _zero() if self.is_start else ratio_estimate(self.nats, np.ones(len(self.nats)), seed=seed)

    def per_token(self, seed: int) -> Estimate:
        """In nats."""
        return _zero() if self.is_start else ratio_estimate(self.nats, self.tokens, seed=seed)


def _zero() -> Estimate:
    return Estimate(0.0, 0.0, 0.0)


def gone(said: Sequence[Sequence[Said]], read: Sequence[Sequence[float]] | None) -> Gone:
    """From what a model drew [N][M] and how likely the start finds it; absent: the model is the start."""
    tokens = np.array([np.mean([len(each.tokens) for each in responses]) for responses in said], dtype=np.float64)
    if read is None:
        return Gone(nats=np.zeros(len(said)), tokens=tokens, is_start=True)
    nats = [
        np.mean([each.logprob - logprob for each, logprob in zip(responses, logprobs, strict=True)])
        for responses, logprobs in zip(said, read, strict=True)
    ]
    return Gone(nats=np.array(nats, dtype=np.float64), tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Both models' ways.

    Attributes:
        start: its name.
        model, baseline: on the same prompts.
        temperature: at which responses were drawn, and the KL is measured.
    """

    start: str
    model: Gone
    baseline: Gone
    temperature: float

    def further(self, seed: int) -> Estimate:
        """By how many nats a response the model is further from the start than the baseline, in pairs."""
        return ratio_estimate(self.model.nats - self.baseline.nats, np.ones(len(self.model.nats)), seed=seed)


def describe_distances(report: Report, found: Distances, won: Estimate, *, seed: int) -> None:
    """A table, what it allows to say of the win rate, and the numbers.

    Args:
        won: the win rate.
    """
    further = found.further(seed)
    rows, numbers = [], {}
    for name, each in (("baseline", found.baseline), ("model", found.model)):
        whole, token = each.per_response(seed), each.per_token(seed)
        rows.append([name, _nats(whole, each), _nats(token, each), float(each.tokens.mean())])
        numbers[name] = {
            f"kl{kind}{end}": value
            for kind, kl in (("", whole), ("_per_token", token))
            for end, value in (("", kl.value), ("_low", kl.low), ("_high", kl.high))
        }
    rows.append(["model - baseline", f"{further}", "", float((found.model.tokens - found.baseline.tokens).mean())])
    ends = (("difference", further.value), ("difference_low", further.low), ("difference_high", further.high))
    report.data("kl", numbers | dict(ends) | {"start": found.start, "estimator": "k1", "items": len(rows_of(found))})
    report.table(
        f"KL from {found.start}",
        ["", "nats a response", "nats a token", "tokens a response"],
        rows,
        f"Of each model to {found.start} on the {len(rows_of(found))} prompts of the win rate, on the responses that "
        f"the model itself drew at temperature {found.temperature:g} (estimator k1: the mean log-ratio of what was "
        "drawn), 95% by prompt. Responses that were cut off count as far as they went.",
    )
    report.text("", " ".join(allowed(found, won, further)))


def rows_of(found: Distances) -> Floats:
    """[N] prompts."""
    return found.model.nats


def allowed(found: Distances, won: Estimate, further: Estimate) -> list[str]:
    """What may be said of winning at equal KL; in sentences."""
    said = []
    if any((each.mean() if len(each) else 0.0) < 0 for each in (found.model.nats, found.baseline.nats)):
        said.append("A KL below zero is luck of the draw, or a sign that sampling and reading differ: it is shown.")
    if found.model.is_start or found.baseline.is_start:
        other = "baseline" if found.model.is_start else "model"
        return [
            *said,
            f"The {'model' if found.model.is_start else 'baseline'} is the start itself, at 0, so this win rate is "
            f"not at equal KL: it says what the {other}'s nats did, and not whether another way would have done more "
            "with as many. For that name a reference that both began as, or ask `palate compare`, which measures "
            "several policies of each way and best of n on one axis.",
        ]
    if further.value is None or further.low is None or further.high is None:
        return [*said, "The two cannot be held against each other: there are too few prompts."]
    if further.low <= 0 <= further.high:
        return [
            *said,
            f"The two have not been told apart in KL: the model is between {further.low:.2f} and {further.high:.2f} "
            "nats further. If that is little beside what either has gone, the win rate is read at about equal KL; "
            "if it is not, it is not, and more prompts would say.",
        ]
    far, near = ("model", "baseline") if further.value > 0 else ("baseline", "model")
    lead = 0.5 if won.value is None else won.value
    winner = "model" if lead > 0.5 else "baseline" if lead < 0.5 else ""
    said.append(f"The {far} has gone further, so this win rate is not at equal KL.")
    if winner == near:
        said.append(f"That the {near} has more of the wins is not bought with nats.")
    elif winner:
        said.append(f"What the {far} has more of the wins may be what the additional nats bought.")
    said.append(
        "A card has one policy of each and cannot say how either would stand at the other's KL; `palate compare` "
        "measures several of each."
    )
    return said


def _nats(kl: Estimate, each: Gone) -> str:
    return "0, the start itself" if each.is_start else f"{kl}"
