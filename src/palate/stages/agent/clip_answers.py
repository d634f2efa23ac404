"""What people are asked about clips and what they say, as files in a run's directory; nothing here needs a network.

    pairs.jsonl             every pair so far: `Candidates`, whose responses name the pictures of its clips
    rankings*.jsonl         what people said of them; several files, and several people, are read as one
    skipped*.jsonl          lines of ``pairs.jsonl`` that people leave without an answer

A clip's name holds a digest of what was observed in it. So an answer speaks of one clip for ever: one that was given to
another run, or to one that was begun anew in the same place, is refused and not taken for an answer to something else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from palate.corpus import read_rankings
from palate.errors import DataError
from palate.recipe import Data
from palate.records import Candidates, Prompt, Ranking, Response

CLIPS, PAIRS = "clips", "pairs.jsonl"
NAME = re.compile(rf"{CLIPS}/([0-9]{{6,}})-([ab])-[0-9a-f]{{12}}\.svg")
"""Where a clip's picture is, from the run's directory: the number of its comparison, its side, its digest."""

Names = tuple[str, str]


@dataclass(slots=True)
class Said:
    """What people said of the comparisons of a run, by number.

    Attributes:
        ranks: of the first and the second clip, as often as a comparison was judged.
        skipped: those that were left without an answer.
    """

    ranks: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    skipped: set[int] = field(default_factory=set)

    def has(self, number: int) -> bool:
        """Whether people have dealt with a comparison."""
        return number in self.ranks or number in self.skipped


def question(environment: str, number: int) -> Prompt:
    """What is asked of a comparison."""
    return Prompt.from_text(
        f"{environment}, comparison {number}: in which of the two clips does it do better?",
        tags={"environment": environment, "comparison": str(number)},
    )


def comparison_of(environment: str, number: int, names: Names) -> Candidates:
    """A comparison as a record of what is to be judged."""
    return Candidates(prompt=question(environment, number), responses=tuple(Response(text=name) for name in names))


def read_pairs(directory: Path) -> list[Candidates]:
    """Every comparison that a run has asked people for; none where it has asked for nothing.

    Raises:
        DataError: a line is no comparison.
    """
    file, found = directory / PAIRS, []
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line, text in enumerate(lines, start=1):
        try:
            found.append(Candidates.model_validate_json(text))
        except ValueError:
            raise DataError("not a pair of clips as a run writes them", path=file, line=line) from None
    return found


def waiting(directory: Path) -> list[Candidates]:
    """The comparisons of a run that nobody has dealt with yet.

    Raises:
        DataError: a file of the run cannot be read, or speaks of something else.
    """
    pairs = read_pairs(directory)
    if not pairs:
        return []
    said = read_answers(directory, "", pairs[0].prompt.tags["environment"], asked={})
    return [pair for pair in pairs if not said.has(number_of(pair.prompt))]


def read_answers(directory: Path, file: str, environment: str, *, asked: Mapping[int, Names]) -> Said:
    """What people said of the comparisons of a run so far.

    Args:
        directory: of the run.
        file: of rankings; empty: all ``rankings*.jsonl`` in the directory.
        asked: names of the clips that are asked about now, by the number of the comparison. What was said of them must
            be about these; of others any clips of their number will do.

    Raises:
        DataError: a file cannot be read, or says something of anything but two clips of this run.
    """
    said = Said()
    rankings = [Path(file)] if file else sorted(directory.glob("rankings*.jsonl"))
    for path in (path for path in rankings if path.exists()):
        read = read_rankings(Data(path=str(path)))
        for ranking, (name, line) in zip(read.records, read.places, strict=True):
            number, names = _clips_of(ranking, environment, asked, str(name), line)
            rank_of = {response.text: rank for response, rank in zip(ranking.responses, ranking.ranks, strict=True)}
            said.ranks[number].append((rank_of[names[0]], rank_of[names[1]]))
    for path in sorted(directory.glob("skipped*.jsonl")):
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                pair = Candidates.model_validate_json(text)
            except ValueError:
                raise DataError("not a line of pairs.jsonl", path=path, line=line) from None
            said.skipped.add(_clips_of(pair, environment, asked, str(path), line)[0])
    return said


def number_of(prompt: Prompt) -> int:
    """Which comparison of its run a question is about; -1 if it is none."""
    digits = prompt.text.partition("comparison ")[2].partition(":")[0]
    return int(digits) if digits.isdecimal() else -1


def _clips_of(
    record: Ranking | Candidates, environment: str, asked: Mapping[int, Names], path: str, line: int
) -> tuple[int, Names]:
    """Number of the comparison, and the names of its first and its second clip."""
    number = number_of(record.prompt)
    names = sorted(response.text for response in record.responses)
    sides = [(found[1], found[2]) for found in map(NAME.fullmatch, names) if found]
    is_ours = record.prompt.id == question(environment, number).id
    of_a_pair = sides == [(f"{number:06d}", "a"), (f"{number:06d}", "b")] and len(names) == 2
    if not is_ours or not of_a_pair or tuple(names) != asked.get(number, tuple(names)):
        said = " and ".join(name[:40] for name in names)
        raise DataError(f"{said}: not the two clips of one comparison of this run", path=path, line=line)
    return number, (names[0], names[1])
