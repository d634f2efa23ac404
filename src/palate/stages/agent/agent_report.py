"""How well the reward networks understood the teacher: in numbers, and in clips that one can watch.

Every answer was foretold by the networks as they were before they learned from it, so their agreement with the teacher
is that of two labelers who judged the same pairs, and is measured as that of labelers is (`feedback/statistics`). Pairs
that were chosen because the networks disagree about them are harder than others; beside it stands therefore how often
pairs of recent clips drawn by lot are ordered as the environment's own reward orders them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import torch

from palate.evals.calibration import accuracy
from palate.evals.report import Report
from palate.evals.theme import LIGHT
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.objectives.preference import bradley_terry_probability
from palate.records import Ranking
from palate.stages.agent.clip_pages import candidates
from palate.stages.agent.clip_pictures import SIZE, moving_parts
from palate.stages.agent.clips import Comparisons
from palate.stages.agent.paying import TaughtReward

HELD_OUT_PAIRS = 500
NETWORKS = "reward networks"
"""What they are called as a labeler."""
_EXAMPLES = 4


def rankings_of(comparisons: Comparisons, environment: str, teacher: str) -> list[Ranking]:
    """What was said, as records; where several people judged a pair each is a labeler of its own."""
    found, times = [], dict.fromkeys(comparisons.numbers.tolist(), 0)
    rows = zip(comparisons.numbers.tolist(), comparisons.ranks.tolist(), comparisons.pairs.observations, strict=True)
    for number, ranks, observations in rows:
        times[number] += 1
        record = candidates(environment, number, observations)
        found.append(
            Ranking(
                prompt=record.prompt,
                responses=record.responses,
                ranks=tuple(ranks),
                labeler=teacher if times[number] == 1 else f"{teacher} {times[number]}",
                source="human" if teacher == "people" else "simulated",
            )
        )
    return found


def foretold_rankings(comparisons: Comparisons, environment: str, *, since: int) -> list[Ranking]:
    """What the networks had said of the comparisons from number ``since`` on, as if they were a labeler."""
    found = {}
    rows = zip(comparisons.numbers.tolist(), comparisons.margins.tolist(), comparisons.pairs.observations, strict=True)
    for number, margin, observations in rows:
        record = candidates(environment, number, observations)
        ranks = (1, 2) if margin > 0 else (2, 1) if margin < 0 else (1, 1)
        ranking = Ranking(prompt=record.prompt, responses=record.responses, ranks=ranks, labeler=NETWORKS, source="ai")
        if number >= since:
            found[number] = ranking
    return list(found.values())


def agreement_of(taught: TaughtReward, said: Sequence[Ranking], *, teacher: str, seed: int) -> dict[str, float | None]:
    """How many answers there were, how many of them were foretold, and how clips that nobody judged are ordered.

    Args:
        said: by the teacher, of all comparisons.
        teacher: its name; of people there is no true reward that clips could be ordered by.
    """
    comparisons = taught.comparisons
    ties = int((comparisons.ranks[:, 0] == comparisons.ranks[:, 1]).sum())
    numbers: dict[str, float | None] = {
        "comparisons": comparisons.asked,
        "answers": len(comparisons),
        "ties": ties,
        "skipped": comparisons.skipped,
    }
    since = next((count for count in taught.due if count), 0)  # before the first round they knew nothing
    foretold = foretold_rankings(comparisons, taught.environment, since=since)
    if foretold:
        numbers_of = {ranking.prompt.id for ranking in foretold}
        both = [*foretold, *(ranking for ranking in said if ranking.prompt.id in numbers_of)]
        found = agreement(both, seed=seed)
        numbers |= {"agreement": found.percent, "agreement_low": found.low, "agreement_high": found.high}
        numbers |= {"agreement_kappa": found.cohen.value}
    if teacher != "people":
        pairs = taught.clips.draw(HELD_OUT_PAIRS, seed, "agent", "held-out pairs")
        with torch.no_grad():
            returns = taught.paid(pairs.observations, pairs.actions).sum(-1)  # [P, 2]
        gaps = pairs.rewards.sum(-1)[:, 0] - pairs.rewards.sum(-1)[:, 1]
        margins = ((returns[:, 0] - returns[:, 1]) * gaps.sign())[gaps != 0]
        right = accuracy(margins.numpy(), [str(row) for row in range(len(margins))], seed=seed)
        numbers |= {"ordered_right": right.value, "ordered_right_low": right.low, "ordered_right_high": right.high}
    return numbers


def add_examples(report: Report, taught: TaughtReward) -> None:
    """A few of the comparisons, spread over the run, with what was said of each."""
    count = len(taught.comparisons)
    if count:
        rows = sorted({(count - 1) * number // max(1, _EXAMPLES - 1) for number in range(_EXAMPLES)})
        report.figure(
            "Comparisons, from the first to the last",
            gallery(taught, rows),
            "Clips play by themselves. The probability is that of the networks as they are in the end; they have "
            "learned from these answers.",
        )


def gallery(taught: TaughtReward, rows: Sequence[int]) -> str:
    """Comparisons one below the other: two clips, and what was said of them."""
    comparisons = taught.comparisons
    chosen = comparisons.pairs.select(torch.tensor(rows))
    returns = taught.returns(chosen)
    first = bradley_terry_probability(returns[:, 0], returns[:, 1]).mean(-1)
    height, gap = SIZE + 46, 20
    parts = []
    for place, row in enumerate(rows):
        top = place * height
        for side in (0, 1):
            drawn = moving_parts(taught.environment, chosen.observations[place, side].double().numpy())
            parts.append(f'<g transform="translate({side * (SIZE + gap)} {top})">{drawn}</g>')
        ranks = tuple(comparisons.ranks[row].tolist())
        said = {(1, 2): "the first is better", (2, 1): "the second is better", (1, 1): "neither is better"}[ranks]
        text = (
            f"comparison {int(comparisons.numbers[row])}: {taught.labels.teacher} says that {said}; "
            f"networks: first with {first[place]:.0%}"
        )
        parts.append(f'<text x="0" y="{top + SIZE + 22}" fill="{LIGHT["ink"]}" font-size="15">{escape(text)}</text>')
    width = 2 * SIZE + gap
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {len(rows) * height}" role="img" '
        f'aria-label="Pairs of clips" style="max-width: {width}px" font-family="system-ui, sans-serif">'
        f"{''.join(parts)}</svg>"
    )
