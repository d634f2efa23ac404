"""What a round's judgements are, beside what was known before them: would earlier reward models have foretold them?

An accuracy on labels that nobody has learned from yet, of responses of the newest policy, says whether a reward model
still knows what it is asked about. It stands beside two numbers without which it says little: how often two labelers
agree, and how often the longer response wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from palate import disk
from palate.corpus.pairs import ordered_pairs
from palate.evals.calibration import accuracy, longer_wins
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.intervals import Estimate
from palate.lm.sources.zoo import Precision
from palate.records import Ranking
from palate.rewards.learned import LearnedReward


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The judgements of one round.

    Attributes:
        judgements, prompts: how many, of how many prompts.
        agreement: how often two labelers agree on a pair.
        longer: share of ordered pairs in which the longer response is preferred.
        foretold: share of ordered pairs that a reward model of an earlier round orders so, by its round.
        notes: what was left out.
    """

    judgements: int
    prompts: int
    agreement: Estimate
    longer: Estimate
    foretold: Mapping[int, Estimate]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            judgements=tree["judgements"],
            prompts=tree["prompts"],
            agreement=Estimate(**tree["agreement"]),
            longer=Estimate(**tree["longer"]),
            foretold={int(number): Estimate(**found) for number, found in tree["foretold"].items()},
            notes=tuple(tree["notes"]),
        )

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        tree = {
            "judgements": self.judgements,
            "prompts": self.prompts,
            "agreement": asdict(self.agreement),
            "longer": asdict(self.longer),
            "foretold": {str(number): asdict(found) for number, found in self.foretold.items()},
            "notes": list(self.notes),
        }
        disk.write_text(path, disk.json_text(tree, indent=2) + "\n")


def described(
    rankings: Sequence[Ranking],
    reward_models: Mapping[int, str],
    *,
    precision: Precision,
    seed: int,
    notes: Sequence[str] = (),
) -> Labels:
    """What is to be known of fresh rankings.

    Args:
        reward_models: directories of earlier ones, by their round.
    """
    pairs = [
        (ranking, ranking.responses[better].text, ranking.responses[worse].text)
        for ranking in rankings
        for better, worse in ordered_pairs(ranking)
    ]
    prompts = [ranking.prompt.id for ranking, _, _ in pairs]
    agreed = agreement(rankings, seed=seed)
    foretold = {}
    for number, directory in reward_models.items():
        score = scores(directory, rankings, precision)
        margins = [score[ranking.prompt.id, a] - score[ranking.prompt.id, b] for ranking, a, b in pairs]
        foretold[number] = accuracy(margins, prompts, seed=seed)
    return Labels(
        judgements=len(rankings),
        prompts=len({ranking.prompt.id for ranking in rankings}),
        agreement=Estimate(agreed.percent, agreed.low, agreed.high),
        longer=longer_wins([(a, b) for _, a, b in pairs], prompts, seed=seed),
        foretold=foretold,
        notes=tuple(notes),
    )


def scores(directory: str, rankings: Sequence[Ranking], precision: Precision) -> dict[tuple[str, str], float]:
    """A reward model's score of every distinct response, by prompt id and text."""
    said = {(item.prompt.id, each.text): (item.prompt, each.text) for item in rankings for each in item.responses}
    model = LearnedReward(directory, precision=precision)
    found = model([prompt for prompt, _ in said.values()], [text for _, text in said.values()])
    return dict(zip(said, found.tolist(), strict=True))
