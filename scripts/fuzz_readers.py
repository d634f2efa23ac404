"""Throw broken files at the importers: rows of every shape we write or know, renamed, removed, nested and retyped.

Every text in a row is a word that occurs nowhere else. So it can be told from outside whether anything was lost: a
word is in a record, in a column that the report names as not used, in a row that was counted with its reason, or the
file was refused in one line. Anything else, and any exception that is not ours, is a fault; the file that shows it is
kept.

    .venv/bin/python scripts/fuzz_readers.py --seconds 600
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from palate.corpus.accounting.account import Account
from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.export import EXPORTERS, export_records
from palate.corpus.first_records import preview
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejected, Rejections
from palate.errors import PalateError
from palate.records import Demonstration, Message, Prompt, Provenance, Ranking, Response, ToolCall

Row: TypeAlias = dict[str, Any]
_WORD = re.compile(r"w\d+w")
_NAMES = json.loads(
    """["prompt", "response", "completion", "question", "answer", "instruction", "input", "output", "chosen",
    "rejected", "messages", "conversations", "system", "history", "tools", "label", "score", "images", "text",
    "turns", "responses", "ranks", "winner", "model_a", "meta", "response_a", "response_b",
    "score_a", "score_b", "rating", "worker", "context", "weight", "mask", "id", "content", "role"]"""
)
_ODD: tuple[Any, ...] = (
    "",
    " ",
    None,
    0,
    1,
    -3,
    2.5,
    True,
    float("nan"),
    10**400,
    [],
    {},
    [None],
    "[]",
    "{}",
    "good",
    "tie",
)
_ODD_TEXTS = ("\n\nHuman: a\n\nAssistant:", "<extra_id_1>User\n", "[{'role': 'user', 'content': 'x'}]", "{", "\ud800")


class Shapes:
    """Rows of every format, each text in them a word of its own."""

    def __init__(self) -> None:
        self._numbers = count()

    def word(self) -> str:
        """A text that nothing else says."""
        return f"w{next(self._numbers)}w said"

    def rows(self, chance: random.Random) -> list[Row]:
        """Some rows of one shape."""
        written = [self._exported, self._known][chance.random() < 0.5](chance)
        return [row for row in written if row] or [{"prompt": self.word(), "response": self.word()}]

    def _exported(self, chance: random.Random) -> list[Row]:
        name = chance.choice([name for name in EXPORTERS if name != "csv"])
        out = io.StringIO()
        records = [chance.choice((self._demonstration, self._ranking, self._thumb))(chance) for _ in range(6)]
        try:
            export_records(records, format=name, out=out)
        except PalateError:
            return []
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def _known(self, chance: random.Random) -> list[Row]:
        make = chance.choice(_KNOWN)
        return [make(self.word) for _ in range(chance.randint(1, 4))]

    def _prompt(self, chance: random.Random) -> Prompt:
        roles = chance.choice((["user"], ["system", "user"], ["user", "assistant", "user"]))
        turns = [Message(role=role, content=self.word()) for role in roles]
        if chance.random() < 0.1:
            call = ToolCall(name="find", arguments=json.dumps({"q": self.word()}), id="c1")
            turns += [
                Message(role="assistant", content="", tool_calls=(call,)),
                Message(role="tool", content=self.word()),
            ]
        return Prompt(messages=tuple(turns))

    def _response(self) -> Response:
        return Response(text=self.word(), provenance=Provenance(model="m"))

    def _demonstration(self, chance: random.Random) -> Demonstration:
        return Demonstration(prompt=self._prompt(chance), response=self._response())

    def _ranking(self, chance: random.Random) -> Ranking:
        size = chance.randint(2, 4)
        return Ranking(
            prompt=self._prompt(chance),
            responses=tuple(self._response() for _ in range(size)),
            ranks=(1, *(chance.randint(1, size) for _ in range(size - 1))),
            ratings=tuple(float(chance.randint(1, 7)) for _ in range(size)) if chance.random() < 0.5 else None,
            labeler=chance.choice(("", "ann", "bo")),
        )

    def _thumb(self, chance: random.Random) -> Ranking:
        ratings = (chance.choice((1.0, 7.0)),)
        return Ranking(prompt=self._prompt(chance), responses=(self._response(),), ranks=(1,), ratings=ratings)


_W = Callable[[], str]
_KNOWN: tuple[Callable[[_W], Row], ...] = (
    lambda w: {"system": w(), "question": w(), "chosen": w(), "rejected": w()},
    lambda w: {"prompt": w(), "completion": w(), "label": "good"},
    lambda w: {"instruction": w(), "input": w(), "output": w(), "kto_tag": True, "history": [[w(), w()]]},
    lambda w: {"messages": [_turn("user", w), _turn("assistant", w)], "rejected_response": w()},
    lambda w: {
        "messages": [_turn("user", w), _turn("assistant", w) | {"train": False}, *_talk(w)],
        "images": ["a.png"],
    },
    lambda w: {"conversations": [{"from": "human", "value": w()}, {"from": "gpt", "value": w()}], "system": w()},
    lambda w: {"prompt": f"\n\nHuman: {w()}\n\nAssistant: ", "answers": [{"answer": w(), "rank": i} for i in (1, 2)]},
    lambda w: {"prompt": w(), "response_0": w(), "response_1": w(), "better_response_id": 1, "safer_response_id": 0},
    lambda w: {"model_a": "x", "model_b": "y", "winner": "tie", "conversation_a": _talk(w), "conversation_b": _talk(w)},
    lambda w: {"prompt": json.dumps([w(), w()]), "chosen": json.dumps(_talk(w)), "rejected": repr(_talk(w))},
    lambda w: {"prompt": w(), "chosen": [w()], "rejected": [w(), w()], "subset": w()},
    lambda w: {"instruction": w(), "instances": [{"input": w(), "output": w()}]},
    lambda w: {"title": w(), "sections": [w(), w()]},
    lambda w: {"question_id": 3, "turns": [w(), w()], "reference": [w()]},
    lambda w: {"fields": {"prompt": w(), "a": w(), "b": w()}, "responses": {"rank": [{"value": ["a", "b"]}]}},
    lambda w: {"prompt": w(), "response": w(), "meta": {"score": 3, "why": w()}, "url": w()},
    lambda w: {"context": [_turn("user", w)], "response1": w(), "response2": w(), "overall_preference": -2},
    lambda w: {
        "input": {"messages": [_turn("user", w)]},
        "preferred_output": [_turn("assistant", w)],
        "non_preferred_output": [_turn("assistant", w)],
    },
    lambda w: (
        {"prompt": [w()], "response_a": [w()], "response_b": [w()]}
        | {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0, "model_a": w(), "model_b": w()}
    ),
    lambda w: {"question": w(), "answer_x": w(), "answer_y": w(), "winner": "left", "worker": w(), "model_x": w()},
    lambda w: {"prompt": w(), "output_1": w(), "output_2": w(), "score_1": 1, "score_2": 2, "seconds": 3},
    lambda w: {"question": w(), "response_j": w(), "response_k": w(), "meta": w()},
    lambda w: {"prompt": w(), "responses": [w(), w(), w()], "rewards": [1, 2, 3], "models": [w(), w(), w()]},
    lambda w: {"prompt": w(), "responses": [w(), w()], "best": "B"},
    lambda w: {"messages": _talk(w), "feedback": "good", "model": w(), "user_id": w()},
    lambda w: (
        {"orig_instruction": w(), "orig_response_A": w(), "orig_response_B": w(), "orig_preference": "A"}
        | {"instruction": w(), "output": w()}
    ),
    lambda w: (
        {"id": 1, "data": {"prompt": w(), "one": w(), "two": w()}}
        | {"annotations": [{"result": [{"type": "pairwise", "value": {"selected": "left"}, "to_name": "one,two"}]}]}
    ),
    lambda w: {"prompt": w(), "one": w(), "two": w(), "q.responses": [["one", "two"]], "q.responses.users": [w()]},
    lambda w: (
        {"user_id": w(), "data": {"rating": 1, "reason": w(), "comment": w()}, "meta": {"message_index": 1}}
        | {"snapshot": {"chat": {"chat": {"messages": _talk(w), "history": {"messages": {}}}}}}
    ),
    lambda w: {
        "passage-id": w(),
        "questions": {
            "0": {each: {"response": w(), "reviews": [{"worker_id": w(), "overall-rank": 1}]} for each in "ab"}
        },
    },
    lambda w: {"prompt": w(), "completions": [w(), w()], "labels": [True, False]},
)


def _turn(role: str, word: _W) -> Row:
    return {"role": role, "content": word()}


def _talk(word: _W) -> list[Row]:
    return [_turn("user", word), _turn("assistant", word)]


def mutated(row: Row, chance: random.Random) -> Row:
    """The row with something renamed, removed, copied, nested or retyped, at any depth."""
    row = json.loads(json.dumps(row))
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        place = _object_in(row, chance)
        if not place:
            continue
        key = chance.choice(list(place))
        value = place[key]
        change = chance.randrange(8)
        if change == 0:
            place[chance.choice(_NAMES)] = place.pop(key)
        elif change == 1:
            del place[key]
        elif change == 2:
            place[chance.choice(_NAMES)] = value
        elif change == 3:
            place[key] = chance.choice(({"value": value}, [value], {"text": value}, [value, value]))
        elif change == 4:
            place[key] = json.dumps(value) if chance.random() < 0.5 else repr(value)
        elif change == 5:
            place[key] = chance.choice(_ODD)
        elif change == 6:
            place[chance.choice(_NAMES)] = chance.choice((*_ODD, *_ODD_TEXTS))
        else:
            row = {chance.choice(_NAMES): row} if chance.random() < 0.2 else row | {"extra": value}
    return row


def _object_in(value: Any, chance: random.Random) -> Row:
    """An object of the row: itself, or one within."""
    objects = [each for each in _walk(value) if isinstance(each, dict)]
    return chance.choice(objects) if objects else {}


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(each)


def text_of(rows: list[Row], chance: random.Random) -> tuple[str, str]:
    """The rows as the text of a file, and the ending of its name."""
    form = chance.randrange(6)
    if form == 0:
        return json.dumps(rows, indent=chance.choice((None, 1))), ".json"
    if form == 1:
        return json.dumps({"version": 1, "data": rows}), ".json"
    if form == 2:
        return "\n".join(json.dumps(row, indent=2) for row in rows), ".json"
    if form == 3 and not any(isinstance(value, dict | list) for row in rows for value in row.values()):
        return _table(rows), ".csv"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return (lines[: chance.randrange(len(lines))] if form == 4 and chance.random() < 0.3 else lines), ".jsonl"


def _table(rows: list[Row]) -> str:
    out = io.StringIO()
    table = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()


class _Noted(Rejections):
    """Rejections that remember every line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[int] = set()

    def add(self, problem: Rejected, path: Path | str, line: int) -> None:
        """Count one rejected row."""
        self.lines.add(line)
        super().add(problem, path, line)


def fault_of(path: Path, rows: list[Row], chance: random.Random) -> str:
    """What is wrong with how a file is read; empty if nothing is."""
    format = chance.choice(list(FORMATS)) if chance.random() < 0.2 else "auto"
    account, rejections = Account(path, stops=False), _Noted()
    try:
        items = [item for _, item in iterate(path, rejections=rejections, account=account, format=format)]
        str(account), str(rejections), preview(path)
    except PalateError:
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error} (format {format})"
    kept = set(_WORD.findall(" ".join(item if isinstance(item, str) else item.to_json() for item in items)))
    if path.suffix == ".csv" and rejections.lines:
        return ""  # a row of a table may stand on several lines
    for line, row in enumerate(rows, 1):
        if line in rejections.lines or (FORMATS[account.format].group and rejections.lines):
            continue  # a group of rows is counted with the first of them
        for name, word in _words(row):
            if word not in kept and not _is_named(name, account):
                return f"{word} in {name!r} of row {line} is in no record and not named ({account.format})"
    return ""


def _words(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _words(each, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each, name)
    elif isinstance(value, str):
        yield from ((name, word) for word in _WORD.findall(value))


def _is_named(name: str, account: Account) -> bool:
    """Whether a field stands in a column that the report names."""
    names = {name, name.removeprefix(f"{account.around.key}.")}
    return any(
        f"{each}.".startswith(f"{unused}.") or each.endswith(f".{unused}")
        for each in names
        for unused in account.unused
    )


def fuzz(*, seed: int, examples: int | None = None, seconds: float | None = None) -> list[str]:
    """Read mutated files until so many were read or so much time has passed; returns the faults."""
    shapes, faults, began = Shapes(), [], time.monotonic()
    numbers = count() if examples is None else range(examples)
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            if seconds is not None and time.monotonic() - began > seconds:
                break
            chance = random.Random(seed * 1_000_003 + number)
            rows = shapes.rows(chance)
            alike = chance.random() < 0.3
            once = chance.getrandbits(32)
            rows = [mutated(row, random.Random(once) if alike else chance) for row in rows]
            text, ending = text_of(rows, chance)
            path = Path(folder) / f"rows{ending}"
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
            done += 1
            whole = not _is_cut(text, ending, rows)
            if fault := fault_of(path, rows if whole else [], chance):
                faults.append(f"seed {seed}, example {number}: {fault}\n{text[:1500]}")
                if len(faults) > 20:
                    break
    print(f"{done} files, {len(faults)} faults, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return faults


def _is_cut(text: str, ending: str, rows: list[Row]) -> bool:
    return ending == ".jsonl" and text.count("\n") != len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = fuzz(seed=args.seed, seconds=args.seconds)
    print("\n\n".join(found))
    sys.exit(bool(found))
