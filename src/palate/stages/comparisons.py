"""Rankings as tensors: every distinct response once, however many judgements speak of it.

Shared by the reward model and DPO, which differ only in the number they compute for a response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palate.corpus.pairs import ComparisonSet, Judgement, comparison_sets
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_responses
from palate.records import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Every distinct response of a set of rankings, computed once wherever it appears.

    Attributes:
        rankings: as people gave them, without those that have a response that is too long.
        sets: the same, grouped by prompt.
        sequences: one for each distinct response.
        row_of: (prompt id, text) -> row of the sequences.
        too_long: rankings left out.
    """

    rankings: list[Ranking]
    sets: list[ComparisonSet]
    sequences: Sequences
    row_of: Mapping[tuple[str, str], int]
    too_long: int

    def rows(self, comparisons: ComparisonSet) -> list[int]:
        """Rows of a set's responses."""
        return [self.row_of[comparisons.prompt.id, text] for text in comparisons.responses]

    def select(self, batch: Sequence[ComparisonSet]) -> Sequences:
        """The responses of a batch, each once."""
        return self.sequences.select(
            torch.tensor(sorted({row for comparisons in batch for row in self.rows(comparisons)}))
        )

    def judgements_in(self, part: Sequences, batch: Sequence[ComparisonSet]) -> list[tuple[list[int], Judgement]]:
        """The batch's judgements whose responses are in this part, with their places [K] in it."""
        place = {row: index for index, row in enumerate(part.rows.tolist())}
        inside = ((self.rows(comparisons), comparisons) for comparisons in batch)
        return [
            ([place[rows[index]] for index in judgement.indices], judgement)
            for rows, comparisons in inside
            if rows[0] in place
            for judgement in comparisons.judgements
        ]


def prepare_responses(
    chat: Chat,
    rankings: Sequence[Ranking],
    *,
    labeler_weights: Mapping[str, float],
    max_length: int,
    device: torch.device,
) -> Responses:
    """Group by prompt, tokenise every distinct response once; rankings with one that is too long are counted."""
    said = {
        (ranking.prompt.id, response.text): ranking.prompt for ranking in rankings for response in ranking.responses
    }
    texts = [text for _, text in said]
    encoded = encode_responses(chat, list(said.values()), texts, max_length=max_length)
    keys = list(said)
    row_of = {keys[item]: row for row, item in enumerate(encoded.kept)}
    usable = [r for r in rankings if all((r.prompt.id, response.text) in row_of for response in r.responses)]
    return Responses(
        rankings=usable,
        sets=comparison_sets(usable, labeler_weights=labeler_weights),
        sequences=encoded.sequences.to(device),
        row_of=row_of,
        too_long=len(rankings) - len(usable),
    )
