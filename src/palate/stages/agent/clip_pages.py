"""People as teachers: pairs of clips are laid before them, and their rankings are read back in.

    clips/000017-a-3f9c1e7b2d40.svg     the clips of comparison 17, moving; the digits are those of `clip_answers`
    clips/000017-b-80d2a61f5c39.svg
    clips/index.html                    the pairs that wait, side by side; what is chosen is saved as a file of rankings

A line of ``pairs.jsonl`` becomes a ranking by adding ``"ranks": [1, 2]`` if the first clip is better, ``[2, 1]`` if the
second is, ``[1, 1]`` if neither; the page does just that, and so does the studio. Several people who judge one pair
share its weight.

The run ends while answers are missing. Everything being a function of the seed, the same command acts the steps since
the last checkpoint once more, finds the same pairs and goes on with what was said of them. So answers to earlier rounds
must stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from palate import disk
from palate.errors import LabelsNeededError
from palate.evals.theme import CSS
from palate.records import Candidates
from palate.stages.agent.clip_answers import CLIPS, PAIRS, Names, comparison_of, read_answers
from palate.stages.agent.clip_pictures import SIZE, picture
from palate.stages.agent.clip_questions import Answers
from palate.stages.agent.clips import Pairs

_SCRIPT = Path(__file__).parent / "comparing.js"
_CHOICES = {"a": "the first is better", "neither": "neither", "b": "the second is better"}


def clip_names(number: int, observations: Tensor) -> Names:
    """What the two clips of a comparison are called: where their pictures are, from the run's directory.

    Args:
        observations: [2, L, O] of its clips; their digest is part of the names.
    """
    first, second = (hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()[:12] for clip in observations)
    return f"{CLIPS}/{number:06d}-a-{first}.svg", f"{CLIPS}/{number:06d}-b-{second}.svg"


def candidates(environment: str, number: int, observations: Tensor) -> Candidates:
    """A comparison of clips with observations [2, L, O] as a record of what is to be judged."""
    return comparison_of(environment, number, clip_names(number, observations))


def ask_people(pairs: Pairs, directory: Path, file: str, *, environment: str, first: int) -> Answers:
    """What people said of these pairs; of those that they skip nothing.

    Args:
        pairs: P of them.
        directory: of the run.
        file: of rankings; empty: all ``rankings*.jsonl`` in the directory.
        first: number of the first of the pairs among all comparisons of the run.

    Raises:
        LabelsNeededError: some have no answer yet; the pictures are there.
        DataError: a file of rankings cannot be read, or ranks something else.
    """
    numbers = range(first, first + len(pairs))
    asked = {number: clip_names(number, pairs.observations[row]) for row, number in enumerate(numbers)}
    said = read_answers(directory, file, environment, asked=asked)
    missing = [number for number in numbers if not said.has(number)]
    if missing:
        write_pairs(pairs, directory, environment=environment, first=first)
        raise LabelsNeededError(
            f"{len(missing)} of {len(pairs)} comparisons wait for people: open {directory / CLIPS / 'index.html'}, put "
            f"the file that it saves {f'into {file}' if file else f'beside {directory / PAIRS}'}, then give the same "
            "command"
        )
    found = [(row, ranks) for row, number in enumerate(numbers) for ranks in said.ranks.get(number, [])]
    return Answers(
        rows=torch.tensor([row for row, _ in found], dtype=torch.long),
        ranks=torch.tensor([ranks for _, ranks in found], dtype=torch.long).view(-1, 2),
        weights=torch.tensor([1 / len(said.ranks[first + row]) for row, _ in found], dtype=torch.float32),
    )


def write_pairs(pairs: Pairs, directory: Path, *, environment: str, first: int) -> None:
    """Pictures, page and records of one round of questions; those of earlier rounds stay."""
    (directory / CLIPS).mkdir(exist_ok=True)
    records = [candidates(environment, first + row, pairs.observations[row]) for row in range(len(pairs))]
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
