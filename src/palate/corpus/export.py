"""Records written in other people's formats. What is exported here reads back here, to the same texts and preferences.

A ranking of K responses becomes a row for each of its ordered pairs where a format knows pairs only. What a format
cannot say (a tie, several turns in a table cell, a thumb among pairs) is counted, never bent. Who judged, when, and
what sampled a response is written by `palate` alone (`rankings` keeps the labeler).

Texts that go to `hh` lose blanks at their ends, as they do when such a file is read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from palate.corpus.files import escape_cell, file_suffix
from palate.corpus.formats import KIND_NAMES, Item
from palate.corpus.rankings import turns_of_transcript
from palate.corpus.reading import iterate, paths_of
from palate.corpus.rejections import Rejections, Unusable
from palate.corpus.writing import output
from palate.errors import DataError
from palate.records import Demonstration, Message, Prompt, Ranking, Response

Exported: TypeAlias = Iterator[dict[str, Any] | Unusable]
Exporter: TypeAlias = Callable[[Item], Exported]
Pair: TypeAlias = tuple[Prompt, Response, Response, float | None]

_NEUTRAL = 4.0  # the middle of the rating scale: a thumb is what lies on either side of it


@dataclass(slots=True)
class ExportReport:
    """What was written, and what the format could not say."""

    out: Path
    rejections: Rejections
    num_rows: int = 0

    def __str__(self) -> str:
        return f"written    {self.num_rows} rows to {self.out}\n{self.rejections}".rstrip()


def export_data(path: Path | str, *, format: str, out: Path | str) -> ExportReport:
    """Write the records of a file (or of several, joined by commas) in another format.

    Args:
        path: in any format that is recognised.
        format: one of `EXPORTERS`.
        out: ends in `.csv` for the csv format and in `.jsonl` for the others, each optionally with `.gz`.

    Raises:
        DataError: an unknown format, a name that does not fit it, a malformed row, or nothing that can be exported.
    """
    paths, out = paths_of(str(path)), Path(out)
    _check_names(paths, format, out)
    report = ExportReport(out, Rejections())
    to_line = _CSVLines() if format == "csv" else _json_line
    with output(out) as result:
        for each in paths:
            for number, item in iterate(each, rejections=report.rejections, strict=True):
                for line in _lines(EXPORTERS[format], to_line, item):
                    if isinstance(line, Unusable):
                        report.rejections.add(line, each, number)
                    else:
                        result.stream.write(line)
                        report.num_rows += 1
        result.keep = report.num_rows > 0
    if not report.num_rows:
        raise DataError(f"nothing in it can be written as {format}\n{report.rejections}".rstrip(), path=path)
    return report


def _check_names(paths: tuple[Path, ...], format: str, out: Path) -> None:
    if format not in EXPORTERS:
        raise DataError(f"no export format {format!r}; there are {', '.join(EXPORTERS)}")
    wanted = ".csv" if format == "csv" else ".jsonl"
    if file_suffix(out) != wanted:
        raise DataError(f"format {format} is written to a file that ends in {wanted} or {wanted}.gz", path=out)
    if any(out.resolve() == path.resolve() for path in paths):
        raise DataError("would be overwritten by its own export; name another file", path=out)


def _lines(exporter: Exporter, to_line: Callable[[Mapping[str, Any]], str], item: Item) -> Iterator[str | Unusable]:
    try:
        for row in exporter(item):
            yield row if isinstance(row, Unusable) else to_line(row)
    except Unusable as problem:
        yield problem


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class _CSVLines:
    """Lines of a table whose columns are the first row's."""

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()

    def __call__(self, row: Mapping[str, Any]) -> str:
        if not self.columns:
            self.columns = tuple(row)
            return self._line(self.columns) + self(row)
        if tuple(row) != self.columns:
            raise Unusable("another kind of record than the table's first: export each kind to a file of its own")
        return self._line(tuple("" if row[name] is None else str(row[name]) for name in self.columns))

    @staticmethod
    def _line(cells: tuple[str, ...]) -> str:
        line = io.StringIO()
        csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(map(escape_cell, cells))
        return line.getvalue()


def _palate(item: Item) -> Exported:
    yield {"text": item} if isinstance(item, str) else json.loads(item.to_json())


def _trl_explicit(item: Item) -> Exported:
    for pair in _pairs(item):
        if isinstance(pair, Unusable):
            yield pair
        else:
            prompt, chosen, rejected, strength = pair
            row = {"prompt": _single_turn(prompt), "chosen": chosen.text, "rejected": rejected.text}
            yield row | _margin(strength)


def _trl_conversational(item: Item) -> Exported:
    for pair in _pairs(item):
        if isinstance(pair, Unusable):
            yield pair
        else:
            prompt, chosen, rejected, strength = pair
            row = {"prompt": _turns(prompt), "chosen": [_answer(chosen)], "rejected": [_answer(rejected)]}
            yield row | _margin(strength)


def _trl_implicit(item: Item) -> Exported:
    """Turns, not texts: where the prompt ends cannot be seen in two texts that go on alike."""
    for pair in _pairs(item):
        if isinstance(pair, Unusable):
            yield pair
        else:
            prompt, chosen, rejected, strength = pair
            row = {"chosen": [*_turns(prompt), _answer(chosen)], "rejected": [*_turns(prompt), _answer(rejected)]}
            yield row | _margin(strength)


def _trl_kto(item: Item) -> Exported:
    """A thumb for every rated response; an unrated pair is a thumb up and a thumb down."""
    ranking = _ranking(item)
    for response, up in _thumbs(ranking):
        if up is None:
            yield Unusable("neither good nor bad: no thumb")
        else:
            yield {"prompt": _turns(ranking.prompt), "completion": [_answer(response)], "label": up}


def _thumbs(ranking: Ranking) -> Iterator[tuple[Response, bool | None]]:
    if ranking.ratings is not None:
        ups = [None if rating == _NEUTRAL else rating > _NEUTRAL for rating in ranking.ratings]
    elif len(ranking.responses) == 2 and ranking.pairs:
        ups = [rank == 1 for rank in ranking.ranks]
    else:
        ups = [None] * len(ranking.responses)
    yield from zip(ranking.responses, ups, strict=True)


def _hh(item: Item) -> Exported:
    for pair in _pairs(item):
        if isinstance(pair, Unusable):
            yield pair
        else:
            prompt, chosen, rejected, _ = pair
            yield {"chosen": _transcript(prompt, chosen), "rejected": _transcript(prompt, rejected)}


def _transcript(prompt: Prompt, response: Response) -> str:
    turns = [*prompt.messages, Message(role="assistant", content=response.text)]
    if any(turn.role == "system" for turn in turns):
        raise Unusable("a system turn, which a transcript does not have")
    names = {"user": "Human", "assistant": "Assistant"}
    text = "".join(f"\n\n{names[turn.role]}: {turn.content.strip()}" for turn in turns)
    if [turn.content for turn in turns_of_transcript(text)] != [turn.content.strip() for turn in turns]:
        raise Unusable("a text with Human: or Assistant: in it, which a transcript would take for a turn")
    return text


def _rankings(item: Item) -> Exported:
    ranking = _ranking(item)
    row = {
        "prompt": _turns(ranking.prompt),
        "responses": [response.text for response in ranking.responses],
        "ranks": list(ranking.ranks),
        "ratings": list(ranking.ratings) if ranking.ratings else None,
        "strength": ranking.strength,
        "labeler": ranking.labeler or None,
        "source": ranking.source,
    }
    yield {name: value for name, value in row.items() if value is not None}


def _csv(item: Item) -> Exported:
    """prompt and response, or prompt, chosen, rejected and margin; cells that look like formulas are escaped."""
    if isinstance(item, Demonstration):
        yield {"prompt": _single_turn(item.prompt), "response": item.response.text}
        return
    for row in _trl_explicit(item):
        yield row if isinstance(row, Unusable) else {"margin": None, **row}


def _alpaca(item: Item) -> Exported:
    """A prompt of several turns goes into `history`, a system turn into `system`."""
    shown = _demonstration(item)
    turns = list(shown.prompt.messages)
    system = turns.pop(0).content if turns[0].role == "system" else ""
    if [turn.role for turn in turns] != (["user", "assistant"] * len(turns))[: len(turns)] or not len(turns) % 2:
        raise Unusable("turns that do not alternate between user and assistant")
    history = [[turns[place].content, turns[place + 1].content] for place in range(0, len(turns) - 1, 2)]
    row = {"instruction": turns[-1].content, "input": "", "output": shown.response.text}
    yield row | ({"system": system} if system else {}) | ({"history": history} if history else {})


def _messages(item: Item) -> Exported:
    """Earlier turns of the assistant's have weight 0: they are context, this demonstration is of the last one."""
    if isinstance(item, Prompt):
        yield {"messages": _weightless(item)}
    else:
        shown = _demonstration(item)
        yield {"messages": [*_weightless(shown.prompt), _answer(shown.response)]}


def _weightless(prompt: Prompt) -> list[dict[str, Any]]:
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in _turns(prompt)]


def _pairs(item: Item) -> Iterator[Pair | Unusable]:
    ranking = _ranking(item)
    if len(ranking.responses) == 1:
        raise Unusable("a single response: no pair in it")
    strength = ranking.strength if len(ranking.responses) == 2 else None
    for better, worse in ranking.pairs:
        yield ranking.prompt, ranking.responses[better], ranking.responses[worse], strength
    num_ties = sum(first == second for first, second in combinations(ranking.ranks, 2))
    yield from [Unusable("a tie: the format has none")] * num_ties


def _ranking(item: Item) -> Ranking:
    if not isinstance(item, Ranking):
        raise Unusable(f"the format has no place for {KIND_NAMES[type(item)]}")
    return item


def _demonstration(item: Item) -> Demonstration:
    if not isinstance(item, Demonstration):
        raise Unusable(f"the format has no place for {KIND_NAMES[type(item)]}")
    return item


def _single_turn(prompt: Prompt) -> str:
    if len(prompt.messages) > 1 or prompt.messages[0].role != "user":
        raise Unusable("a prompt of several turns: the format has a single text for it")
    return prompt.text


def _turns(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content} for turn in prompt.messages]


def _answer(response: Response) -> dict[str, Any]:
    return {"role": "assistant", "content": response.text}


def _margin(strength: float | None) -> dict[str, float]:
    return {} if strength is None else {"margin": strength}


EXPORTERS: Mapping[str, Exporter] = {
    "palate": _palate,
    "trl-explicit": _trl_explicit,
    "trl-conversational": _trl_conversational,
    "trl-implicit": _trl_implicit,
    "trl-kto": _trl_kto,
    "hh": _hh,
    "rankings": _rankings,
    "csv": _csv,
    "alpaca": _alpaca,
    "messages": _messages,
}
