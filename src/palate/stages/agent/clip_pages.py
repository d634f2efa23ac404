"""People as teachers: pairs of clips are laid before them, and their rankings are read back in.

    clips/000017-a.svg      the clips of comparison 17, moving
    clips/000017-b.svg
    clips/index.html        the pairs that wait, side by side; what is chosen there is saved as a file of rankings
    pairs.jsonl             every pair so far: `Candidates`, whose responses name the pictures
    rankings*.jsonl         what people said of them; several files, and several people, are read as one

A line of ``pairs.jsonl`` becomes a ranking by adding ``"ranks": [1, 2]`` if the first clip is better, ``[2, 1]`` if the
second is, ``[1, 1]`` if neither; the page does just that. Several people who judge one pair share its weight.

The run ends while answers are missing. Everything being a function of the seed, the same command acts the steps since
the last checkpoint once more, finds the same pairs and goes on with what was said of them. So answers to earlier rounds
must stay where they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch

from palate import disk
from palate.corpus import read_rankings
from palate.errors import DataError, LabelsNeededError
from palate.evals.theme import CSS
from palate.recipe import Data
from palate.records import Candidates, Prompt, Ranking, Response
from palate.stages.agent.clip_pictures import SIZE, picture
from palate.stages.agent.clip_questions import Answers
from palate.stages.agent.clips import Pairs

CLIPS, PAIRS = "clips", "pairs.jsonl"
_SCRIPT = Path(__file__).parent / "comparing.js"
_CHOICES = {"a": "the first is better", "neither": "neither", "b": "the second is better"}


def clip_names(number: int) -> tuple[str, str]:
    """What the two clips of a comparison are called: where their pictures are, from the run's directory."""
    return f"{CLIPS}/{number:06d}-a.svg", f"{CLIPS}/{number:06d}-b.svg"


def candidates(environment: str, number: int) -> Candidates:
    """A comparison as a record of what is to be judged."""
    prompt = Prompt.from_text(
        f"{environment}, comparison {number}: in which of the two clips does it do better?",
        tags={"environment": environment, "comparison": str(number)},
    )
    return Candidates(prompt=prompt, responses=tuple(Response(text=name) for name in clip_names(number)))


def ask_people(pairs: Pairs, directory: Path, file: str, *, environment: str, first: int) -> Answers:
    """What people said of these pairs.

    Args:
        pairs: P of them.
        directory: of the run.
        file: of rankings; empty: all ``rankings*.jsonl`` in the directory.
        first: number of the first of the pairs among all comparisons of the run.

    Raises:
        LabelsNeededError: some have no answer yet; the pictures are there.
        DataError: a file of rankings cannot be read, or ranks something else.
    """
    paths = [Path(file)] if file else sorted(directory.glob("rankings*.jsonl"))
    said = read_answers([path for path in paths if path.exists()], environment)
    numbers = range(first, first + len(pairs))
    missing = [number for number in numbers if number not in said]
    if missing:
        write_pairs(pairs, directory, environment=environment, first=first)
        raise LabelsNeededError(
            f"{len(missing)} of {len(pairs)} comparisons wait for people: open {directory / CLIPS / 'index.html'}, put "
            f"the file that it saves {f'into {file}' if file else f'beside {directory / PAIRS}'}, then give the same "
            "command"
        )
    found = [(row, ranks, 1 / len(said[number])) for row, number in enumerate(numbers) for ranks in said[number]]
    rows, ranks, weights = zip(*found, strict=True)
    return Answers(rows=torch.tensor(rows), ranks=torch.tensor(ranks), weights=torch.tensor(weights))


def read_answers(paths: Sequence[Path], environment: str) -> dict[int, list[tuple[int, int]]]:
    """The ranks of the two clips of each comparison, by its number, as often as it was judged.

    Raises:
        DataError: a file cannot be read, or ranks something else than the two clips of a pair.
    """
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for path in paths:
        read = read_rankings(Data(path=str(path)))
        for ranking, (file, line) in zip(read.records, read.places, strict=True):
            answer = _answer(ranking, environment)
            if answer is None:
                said = " and ".join(response.text[:40] for response in ranking.responses)
                raise DataError(f"{said}: not the two clips of one comparison of this run", path=file, line=line)
            found[answer[0]].append(answer[1])
    return dict(found)


def _answer(ranking: Ranking, environment: str) -> tuple[int, tuple[int, int]] | None:
    """Number of the comparison, and the ranks of its first and its second clip; None if it is none of this run."""
    rank_of = {response.text: rank for response, rank in zip(ranking.responses, ranking.ranks, strict=True)}
    digits = ranking.prompt.text.partition("comparison ")[2].partition(":")[0]
    number = int(digits) if digits.isdecimal() else -1
    first, second = clip_names(number)
    if ranking.prompt.id != candidates(environment, number).prompt.id or rank_of.keys() != {first, second}:
        return None
    return number, (rank_of[first], rank_of[second])


def write_pairs(pairs: Pairs, directory: Path, *, environment: str, first: int) -> None:
    """Pictures, page and records of one round of questions; those of earlier rounds stay."""
    (directory / CLIPS).mkdir(exist_ok=True)
    records = [candidates(environment, first + row) for row in range(len(pairs))]
    for row, record in enumerate(records):
        for side, response in enumerate(record.responses):
            drawn = picture(environment, pairs.observations[row, side].double().numpy(), response.text)
            disk.write_text(directory / response.text, drawn)
    file = directory / PAIRS
    before = file.read_text(encoding="utf-8").splitlines()[:first] if file.exists() else []
    disk.write_text(file, "".join(f"{line}\n" for line in [*before, *(record.to_json() for record in records)]))
    disk.write_text(directory / CLIPS / "index.html", page(environment, records, first=first))


def page(environment: str, records: Sequence[Candidates], *, first: int) -> str:
    """The pairs that wait, each with its three answers; it needs nothing but the pictures beside it."""
    told = ",".join(record.to_json() for record in records).replace("<", "\\u003c")
    rows = "".join(_row(place, record) for place, record in enumerate(records))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(environment)}: clips to compare</title><style>{CSS}"
        "fieldset{border:1px solid var(--grid);border-radius:.75rem;margin:1.5rem 0}label{margin-right:1.2rem}"
        "</style></head>\n"
        f'<body><main><h1>{escape(environment)}: {len(records)} pairs of clips</h1><form data-file="rankings-'
        f'{first:06d}.jsonl"><p><label>Your name <input name="labeler" autocomplete="off"></label></p>{rows}'
        "<p><output></output> <button>Save the file of rankings</button></p></form></main>"
        f'<script id="pairs" type="application/json">[{told}]</script>'
        f"<script>{_SCRIPT.read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _row(place: int, record: Candidates) -> str:
    pictures = "".join(
        f'<img src="{escape(Path(response.text).name)}" alt="{side} clip" width="{SIZE}" height="{SIZE}"> '
        for side, response in zip(("first", "second"), record.responses, strict=True)
    )
    choices = "".join(
        f'<label><input type="radio" name="pair-{place}" value="{value}"> {words}</label>'
        for value, words in _CHOICES.items()
    )
    return f"<fieldset><legend>{escape(record.prompt.text)}</legend><p>{pictures}</p><p>{choices}</p></fieldset>"
