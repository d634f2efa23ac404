"""Documents as one stream of tokens, and rows of equal length out of it.

Before every document stands the stop token, from which its first token is foretold, and it ends with one. A pass takes
the documents in an order of its own and cuts what is to be learned into rows of ``length`` tokens; so every token is
learned once in a pass, and a row has the same number of them whatever the documents' lengths. A row may hold the end of
one document and the beginning of the next. They are sequences of their own, which neither attend to each other nor
share positions, so packing needs no mask; and there is no padding, so nothing is computed for nothing.

    documents            S a b c S    S d e S
    rows of 3            [S a b c]    [c S] [S d e]    [e S]        learned: all but the first of each

Left out: carrying a document's context over the edge of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from palate.lm.batch import Sequences
from palate.lm.chat import Chat

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Token ids of D documents.

    Attributes:
        tokens: [N] int32, a stop token before and behind each document.
        starts: [D + 1] where each begins, and N.
        num_bytes: of all texts, in UTF-8.
    """

    tokens: NDArray[np.int32]
    starts: Places
    num_bytes: int

    @classmethod
    def of(cls, chat: Chat, texts: Sequence[str], *, show: Callable[[int, int], None] | None = None) -> Documents:
        """Tokenise them; ``show`` is told how many of how many are done."""
        parts = []
        for number, text in enumerate(texts):
            parts.append(np.array([chat.stop_id, *chat.text_tokens(text)], dtype=np.int32))
            if show is not None:
                show(number + 1, len(texts))
        return cls(
            tokens=np.concatenate(parts),
            starts=np.cumsum([0, *map(len, parts)]),
            num_bytes=sum(len(text.encode()) for text in texts),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def num_learned(self) -> int:
        """Tokens that are foretold in one pass: all but the stop token before each document."""
        return len(self.tokens) - len(self)

    def num_rows(self, length: int) -> int:
        """Rows of one pass."""
        return -(-self.num_learned // length)

    def num_learned_in(self, rows: Places, length: int) -> int:
        """Tokens that are foretold in these rows; the last row of a pass has what is left."""
        last = self.num_rows(length) - 1
        missing = (last + 1) * length - self.num_learned
        return len(rows) * length - missing * int((rows == last).sum())

    def beginning(self, number: int, count: int) -> list[int]:
        """The stop token before a document, and its first tokens, its last one excepted."""
        start, stop = self.starts[number : number + 2]
        ids: list[int] = self.tokens[start : min(start + 1 + count, stop - 1)].tolist()
        return ids


class Rows:
    """One pass over the documents.

    Args:
        documents: D of them.
        order: [D] in which they follow each other.
        length: tokens that are learned in a row; the last row has what is left.
    """

    def __init__(self, documents: Documents, order: Places, length: int) -> None:
        self.documents, self.order, self.length = documents, order, length
        self._ends = np.cumsum(np.diff(documents.starts)[order] - 1)

    def __len__(self) -> int:
        return self.documents.num_rows(self.length)

    def everything(self) -> Sequences:
        """All rows."""
        return self.select(range(len(self)))

    def select(self, rows: Iterable[int]) -> Sequences:
        """The parts of documents that make up these rows, one after the other.

        The first token of each is given, all others are learned.
        """
        parts = [part for row in rows for part in self._parts(row)]
        lengths = torch.tensor([len(part) for part in parts])
        width = int(lengths.max())
        places = torch.arange(width)[None] < lengths[:, None]
        tokens = torch.zeros(places.shape, dtype=torch.long)
        tokens[places] = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        mask = places.clone()
        mask[:, 0] = False
        number = torch.arange(len(parts))
        # all of it is the prompt, as far as the layout goes: one causal run of rows, and no responses after it
        return Sequences(
            tokens=tokens, mask=mask, prompt_lengths=lengths, lengths=lengths, group_ids=number, rows=number
        )

    def _parts(self, row: int) -> list[NDArray[np.int32]]:
        """Token ids of a row's parts of documents, each behind the one that its first is foretold from."""
        place = row * self.length
        end = min(place + self.length, int(self._ends[-1]))
        parts = []
        number = int(np.searchsorted(self._ends, place, side="right"))
        while place < end:
            document, last = self.order[number], int(self._ends[number])
            start, stop = self.documents.starts[document : document + 2]
            upto = min(end, last)
            parts.append(self.documents.tokens[stop - 1 - (last - place) : stop - (last - upto)])
            assert stop - 1 - (last - place) >= start
            place, number = upto, number + 1
        return parts
