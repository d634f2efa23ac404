"""Which parts of a taste were learned, and which of them the reward model could see.

A judge's score may be a sum of named parts, such as warmth and length. A win rate says that the sum is better more
often; here is which part rose and which fell, each with an interval by prompt, and how often the reward model orders
two responses as the part does. What it cannot see, no optimisation against it can learn.

Left out: which part a change is owed to. Parts go together (a shorter answer repeats itself less), so a reward model
that sees one of them alone may order another better, or worse, than a coin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from palate.evals import plots
from palate.evals.page import Report
from palate.intervals import Estimate, Floats, ratio_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A mean before and after, and the paired difference with its interval by prompt."""

    before: float
    after: float
    difference: Estimate

    @property
    def direction(self) -> str:
        """Whether it rose or fell beyond what the choice of prompts explains."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "no interval"
        return "rose" if low > 0 else "fell" if high < 0 else "no clear change"

    def __str__(self) -> str:
        """The difference as it stands in a table."""
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
        return f"{value:+.3f}{interval}"

    def as_json(self) -> dict[str, float | str | None]:
        """For ``report.json``."""
        difference = self.difference
        return {
            "before": self.before,
            "after": self.after,
            "change": difference.value,
            "change_low": difference.low,
            "change_high": difference.high,
            "direction": self.direction,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAccuracy:
    """How far a reward model orders pairs of responses to one prompt as a part of the taste does.

    Attributes:
        accuracy: share of the pairs, equal rewards half right; its interval is by prompt.
        num_pairs: pairs that differ in the part.
        num_ties: pairs that do not, left out.
        spread: standard deviation of the part among the responses of a prompt: how much it has to say.
    """

    accuracy: Estimate
    num_pairs: int
    num_ties: int
    spread: float

    @property
    def verdict(self) -> str:
        """Whether it orders better than a coin, beyond what the choice of prompts explains."""
        low, high = self.accuracy.low, self.accuracy.high
        if low is None or high is None:
            return "no interval"
        return "seen" if low > 0.5 else "reversed" if high < 0.5 else "not seen"


def change(before: ArrayLike, after: ArrayLike, *, seed: int) -> Change:
    """Of something measured on N responses to each of P prompts before, [P, N], and M after, [P, M]."""
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    assert old.ndim == new.ndim == 2, f"a row for each prompt, not {old.shape} and {new.shape}"
    assert len(old) == len(new), f"{len(old)} prompts before and {len(new)} after"
    difference = ratio_estimate(new.mean(1) - old.mean(1), np.ones(len(old)), seed=seed)
    return Change(before=float(old.mean()), after=float(new.mean()), difference=difference)


def accuracy_on_part(rewards: ArrayLike, part: ArrayLike, *, seed: int) -> PartAccuracy:
    """Over all C(K, 2) pairs of the K responses to each of P prompts, both [P, K]."""
    proxy, gold = np.asarray(rewards, dtype=np.float64), np.asarray(part, dtype=np.float64)
    assert proxy.shape == gold.shape, f"a reward for each response, not {proxy.shape} for {gold.shape}"
    first, second = np.triu_indices(gold.shape[1], 1)
    preferred = np.sign(gold[:, first] - gold[:, second])  # [P, C(K, 2)]
    right = (1 + preferred * np.sign(proxy[:, first] - proxy[:, second])) / 2
    differs = preferred != 0
    return PartAccuracy(
        accuracy=ratio_estimate((right * differs).sum(1), differs.sum(1), seed=seed, share=True),
        num_pairs=int(differs.sum()),
        num_ties=int((~differs).sum()),
        spread=float(np.sqrt(gold.var(axis=1).mean())),
    )


def describe_scores(report: Report, before: Floats, after: Floats, *, seed: int) -> None:
    """The mean of a judge's scores, [P, N] before and [P, M] after; of a judge that checks, the share that is right."""
    gained = change(before, after, seed=seed)
    means = {name: mean_score(scores, seed=seed) for name, scores in (("before", before), ("after", after))}
    intervals = {f"{name}_{side}": getattr(mean, side) for name, mean in means.items() for side in ("low", "high")}
    report.data("scores", gained.as_json() | intervals)
    report.table(
        "The judge's mean score",
        ["before", "after", "change", ""],
        [[str(means["before"]), str(means["after"]), str(gained), gained.direction]],
        "Of a judge that checks, the share that is right. In brackets 95% intervals by prompt; that of the change goes "
        "prompt by prompt.",
    )


def mean_score(scores: Floats, *, seed: int) -> Estimate:
    """Of M responses to each of P prompts, [P, M]; a share where none is below 0 or above 1."""
    share = bool(((scores >= 0) & (scores <= 1)).all())
    return ratio_estimate(scores.mean(1), np.ones(len(scores)), seed=seed, share=share)


def describe_changes(report: Report, before: Mapping[str, Floats], after: Mapping[str, Floats], *, seed: int) -> None:
    """What was learned and what was not: the parts of the judge's score by name, [P, N] before and [P, M] after."""
    changes = {name: change(before[name], after[name], seed=seed) for name in after}
    report.data("parts", {name: found.as_json() for name, found in changes.items()})
    report.text("What was learned, and what was not", _say_changes(changes, len(next(iter(after.values())))))
    report.table(
        "",
        ["part of the judge's score", "before", "after", "change", ""],
        [
            [name, f"{found.before:+.3f}", f"{found.after:+.3f}", str(found), found.direction]
            for name, found in changes.items()
        ],
        "Means over responses; the parts add up to the score, what they take off is negative. In brackets: 95% "
        "intervals of the difference, by prompt.",
    )


def describe_accuracies(
    report: Report, rewards: Floats, parts: Mapping[str, Floats], scores: Floats, *, seed: int
) -> None:
    """What the reward model sees of the judge's taste: all [P, K], of K responses to each of P prompts."""
    found = {"all together": accuracy_on_part(rewards, scores, seed=seed)}
    found |= {name: accuracy_on_part(rewards, part, seed=seed) for name, part in parts.items()}
    report.data(
        "reward_model_on_parts",
        {
            name: {
                "accuracy": item.accuracy.value,
                "accuracy_low": item.accuracy.low,
                "accuracy_high": item.accuracy.high,
                "pairs": item.num_pairs,
                "ties": item.num_ties,
                "spread": item.spread,
            }
            for name, item in found.items()
        },
    )
    report.figure(
        "What the reward model sees of the taste",
        plots.bars_with_intervals(
            list(found), [item.accuracy for item in found.values()], unit="pairs ordered alike (a coin: 50%)"
        ),
        _say_accuracies(found),
    )
    report.table(
        "",
        ["part", "ordered alike", "pairs", "ties left out", "spread"],
        [
            [name, str(item.accuracy), str(item.num_pairs), str(item.num_ties), f"{item.spread:.3f}"]
            for name, item in found.items()
        ],
        "Pairs of responses to one held-out prompt. Spread: how far such responses differ in the part, and so how much "
        "it weighs in the whole.",
    )


def _say_changes(changes: Mapping[str, Change], num_prompts: int) -> str:
    titles = {
        "rose": "The score gained by",
        "fell": "It lost by",
        "no clear change": f"No change that {num_prompts} prompts could tell",
        "no interval": "Without an interval",
    }
    gains = {name: round(found.after - found.before, 2) + 0.0 for name, found in changes.items()}  # no -0.00
    return _sentences(titles, [(f"{name} ({gains[name]:+.2f})", found.direction) for name, found in changes.items()])


def _say_accuracies(found: Mapping[str, PartAccuracy]) -> str:
    titles = {
        "seen": "It sees",
        "not seen": "No better than a coin on",
        "reversed": "It orders the other way round",
        "no interval": "Without an interval",
    }
    return _sentences(titles, [(name, item.verdict) for name, item in found.items()])


def _sentences(titles: Mapping[str, str], verdicts: Sequence[tuple[str, str]]) -> str:
    """One for each verdict that was given, with the names that it was given to."""
    given = {verdict: [name for name, said in verdicts if said == verdict] for verdict in titles}
    return " ".join(f"{titles[verdict]}: {', '.join(names)}." for verdict, names in given.items() if names)
