"""Records that say what an earlier one said, and what is made of each.

    a prompt, a text, a demonstration, candidates   the same again adds nothing: left out
    the same judgement by the same labeler          one person has one vote: left out
    another judgement by the same labeler           changed their mind, or wavered: both are kept
    the same judgement, and nobody is named         a vote of its own: kept, since votes and copies look alike

The last two are kept and counted, so that whoever knows better can name the labelers' column or clean the file.
"""

from __future__ import annotations

from hashlib import blake2b

from palate.corpus.catalogue.format import Item
from palate.corpus.rows.rejections import Rejections
from palate.records import Candidates, Demonstration, Prompt, Ranking, Response, content_id

_SIZE, _FEWEST = 16, 1 << 12  # bytes of a hash; places to begin with
_NOTHING = bytes(_SIZE)
_SAME = "the labeler said the same of these responses before; left out"
_OTHER = "the labeler had judged these responses otherwise; kept"
_VOTE = "judgements that nobody signed and that say what an earlier one says; each is kept as a vote: name the labelers"


class Unique:
    """Whether a record is to be kept; counts those that repeat another. Some 32 bytes are held of each."""

    def __init__(self, rejections: Rejections) -> None:
        self.rejections = rejections
        self._seen = Fingerprints()

    def __call__(self, item: Item) -> bool:
        """Whether it says something new, or is a vote."""
        if not isinstance(item, Ranking):
            known = self._known(_identity(item))
            self.rejections.duplicates += known
            return not known
        judged, verdict = _judgement(item)
        known = self._known(verdict)
        if not item.labeler:
            self.rejections.repeated.update([_VOTE] if known else [])
            return True
        before = self._known(judged)
        self.rejections.repeated.update([_SAME if known else _OTHER] if before else [])
        return not known

    def _known(self, text: str) -> bool:
        """Whether this was said before; from now on it was."""
        return self._seen.add(blake2b(text.encode(), digest_size=_SIZE).digest())


class Fingerprints:
    """A set of hashes in one block of memory: a set of Python's takes four times as much."""

    def __init__(self) -> None:
        self._table = bytearray(_SIZE * _FEWEST)
        self._count = 0

    def add(self, fingerprint: bytes) -> bool:
        """Whether it was there; from now on it is."""
        place = self._place(fingerprint)
        if self._table[place : place + _SIZE] == fingerprint:
            return True
        self._table[place : place + _SIZE] = fingerprint
        self._count += 1
        if 2 * self._count * _SIZE > len(self._table):
            self._grow()
        return False

    def _place(self, fingerprint: bytes) -> int:
        """Where it stands, or where it belongs: the first free place from the one that its own digits name."""
        table, size = self._table, len(self._table)
        place = int.from_bytes(fingerprint[:8]) * _SIZE % size
        while (found := table[place : place + _SIZE]) != fingerprint and found != _NOTHING:
            place = (place + _SIZE) % size
        return place

    def _grow(self) -> None:
        before, self._table = self._table, bytearray(2 * len(self._table))
        for start in range(0, len(before), _SIZE):
            fingerprint = bytes(before[start : start + _SIZE])
            if fingerprint != _NOTHING:
                place = self._place(fingerprint)
                self._table[place : place + _SIZE] = fingerprint


def _identity(item: Prompt | Demonstration | Candidates | str) -> str:
    if isinstance(item, Prompt):
        return item.id  # tags are not part of what it says
    return item if isinstance(item, str) else item.to_json()


def _judgement(ranking: Ranking) -> tuple[str, str]:
    """What was judged by whom, and what was said of it: the responses in any order.

    Two models that say the same are two responses: whoever compares models judged each of them.
    """
    ratings = ranking.ratings or ("",) * len(ranking.ranks)
    flags = ranking.flags or ((),) * len(ranking.ranks)
    responses = [content_id(*response.parts, _model(response)) for response in ranking.responses]
    verdicts = sorted(zip(responses, map(str, ranking.ranks), map(str, ratings), map(str, flags), strict=True))
    subject = ("judged", ranking.prompt.id, ranking.labeler)
    verdict = (part for each in verdicts for part in each)
    return content_id(*subject, *sorted(responses)), content_id(*subject, "so", str(ranking.strength), *verdict)


def _model(response: Response) -> str:
    return response.provenance.model if response.provenance else ""
