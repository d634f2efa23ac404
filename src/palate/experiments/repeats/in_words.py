"""What a figure over seeds allows to say, and what it does not: a few sentences for the page of a repeat.

Left out: what it means. That 0.01 is much, or little, is for whoever asked.
"""

from __future__ import annotations

from palate.evals.page import format_number
from palate.experiments.repeats.spread import told_apart_from
from palate.experiments.repeats.told import Figure
from palate.intervals import Estimate


def conclusion(figure: Figure) -> str:
    """A paragraph, of a figure over two seeds or more."""
    parts = [f"{figure.name}: from seed to seed it varies by {_around(figure.spread)}."]
    return " ".join([*parts, *_beside_prompts(figure), *_by_source(figure)])


def in_percent(share: Estimate) -> str:
    """With its interval, if it has one."""
    if share.value is None:
        return "undefined"
    ends = "" if share.low is None or share.high is None else f" ({share.low:.0%} to {share.high:.0%})"
    return f"{share.value:.0%}{ends}"


def _beside_prompts(figure: Figure) -> list[str]:
    inside, spread = figure.within, figure.spread
    if inside is None or spread.low is None or spread.high is None:
        return []
    beside = f"other prompts or items ({format_number(inside)})"
    if spread.high < inside:
        return [f"That is less than {beside} would change it: ask more of them before you run more seeds."]
    if spread.low > inside:
        return [f"That is more than {beside} would change it: one run's own interval is too narrow."]
    return [f"Whether that is more than {beside} would change it cannot be told from so few seeds."]


def _by_source(figure: Figure) -> list[str]:
    shares = figure.shares
    if not shares or all(share.value is None for share in shares.values()):
        return []
    largest_first = sorted(shares.items(), key=lambda item: -(item[1].value or 0.0))
    said = [f"Of the sources' variances {', '.join(f'{name} has {in_percent(each)}' for name, each in largest_first)}."]
    if len(shares) > 1:
        said.append(
            f"That {figure.largest} has the largest part is sure to 97.5%."
            if figure.largest
            else "Which of them has the largest part cannot be told: "
            f"with {min(figure.pairs)} seeds one variance has to be found {told_apart_from(min(figure.pairs)):.1f} "
            "times as large as another."
        )
    together = figure.sum_of_parts
    if together.value is not None and together.low is not None and together.high is not None:
        ends = f"{together.low:.2g} to {together.high:.2g}"
        said.append(
            f"They add up to {together.value:.2g} times ({ends}) the square of the spread: "
            + (
                "as sources would that do not work together, as far as so many seeds can tell."
                if together.low <= 1 <= together.high
                else "these sources work together."
                if together.low > 1
                else "something else varies from seed to seed."
            )
        )
    return said


def _around(spread: Estimate) -> str:
    if spread.low is None or spread.high is None:
        return format_number(spread.value)
    return f"{format_number(spread.value)} ({format_number(spread.low)} to {format_number(spread.high)})"
