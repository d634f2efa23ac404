"""What a model said of two answers in both orders, the verdict that follows, and rankings out of verdicts.

A model that prefers whatever stands first says nothing about the answers. So each pair is asked twice, each answer once
in the first place: the same answer both times is a verdict, another one each time is a tie (Zheng et al. 2023, arXiv
2306.05685, section 3.4). Or the mean of both orders decides, out of which a preference for a place cancels if it is
always the same. Several principles of a pair vote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from palate.records import AI, Prompt, Ranking, Record, Response


class Asked(Record):
    """One principle's question about a pair of answers, asked in both orders.

    Attributes:
        pair: their numbers; the first of them stood first the first time.
        first: for each order how much of the model was for the answer in the first place, 0 to 1; None: it chose none.
        reasons: why it chose none.
    """

    principle: str
    pair: tuple[int, int]
    first: tuple[float | None, float | None]
    reasons: tuple[str, ...] = ()

    @property
    def has_verdict(self) -> bool:
        """Whether both questions were answered."""
        return None not in self.first

    @property
    def places(self) -> tuple[float, ...]:
        """For each order that was answered whether the first place won: 1, 0, or one half where neither did."""
        return tuple(float(np.sign(share - 0.5)) / 2 + 0.5 for share in self.first if share is not None)

    @property
    def flips(self) -> bool:
        """Whether the same place won twice, which is another answer each time."""
        return self.has_verdict and self.places in ((1.0, 1.0), (0.0, 0.0))

    @property
    def verdict(self) -> int:
        """1: the pair's first answer is preferred in both orders; -1: its second; 0: neither."""
        assert self.has_verdict, "a question that was not answered has no verdict"
        return int(self.places == (1.0, 0.0)) - int(self.places == (0.0, 1.0))

    @property
    def lead(self) -> float:
        """How much more of the model is for the pair's first answer than for its second, over both orders: -1 to 1."""
        one, other = self.first
        assert one is not None, "a question that was not answered has no lead"
        assert other is not None, "a question that was not answered has no lead"
        return one - other


class Judged(Record):
    """A prompt, the different answers to it, and what was asked about their pairs.

    Attributes:
        left_out: pairs about which nothing could be asked.
        rule: what a verdict is: the same answer in both orders, or the mean of both.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    asked: tuple[Asked, ...]
    left_out: int = 0
    rule: Literal["same", "mean"] = "same"

    def verdict_of(self, each: Asked) -> int:
        """By one principle; 1, -1 or 0 as in `Asked.verdict`."""
        return each.verdict if self.rule == "same" else int(np.sign(each.lead))

    def verdicts(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Each pair with its verdict: that of most of its principles, 0 where they are even."""
        for pair in dict.fromkeys(each.pair for each in self.asked):
            votes = [self.verdict_of(each) for each in self.asked if each.pair == pair and each.has_verdict]
            if votes:
                yield pair, int(np.sign(sum(votes)))

    def rankings(self, *, model: str, constitution: str) -> list[Ranking]:
        """One for each pair with a verdict, marked as AI's.

        Args:
            model: that judged.
            constitution: its version.
        """
        ranks = {1: (1, 2), 0: (1, 1), -1: (2, 1)}
        return [
            Ranking(
                prompt=self.prompt,
                responses=tuple(self.responses[place] for place in pair),
                ranks=ranks[verdict],
                labeler=AI + model,
                guideline_version=constitution,
                source="ai",
            )
            for pair, verdict in self.verdicts()
        ]
