"""Rows out of JSON text: an object on each line, one array, an object that wraps the rows, or objects one by one.

What a file's name says does not matter, since files are often named after another shape; its first line and whether
anything follows it do. Arrays are decoded element by element out of a sliding window of text, so that no file is held
whole. A conversation may stand for its row as a plain list of turns, and a row may be spelled out in a string.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, TextIO, TypeAlias

from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.row import Row, Wrapper
from palate.corpus.rows.turns import TURN_KEYS, is_dialogue
from palate.corpus.rows.values import kind_of
from palate.errors import DataError

Stream: TypeAlias = io.BufferedReader

_CHUNK = 1 << 16  # characters read at a time
_LONGEST_ELEMENT = 1 << 28  # an element this long is a string that was never closed
_LONGEST_FIRST_LINE = {b"[": 1 << 16, b"{": 1 << 24}  # bytes; what begins with a longer line is one value
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_WRAPPERS = frozenset(
    ("data", "rows", "examples", "records", "samples", "entries", "dataset", "train", "test", "validation", "dev")
)
_RECORD = frozenset(
    ("prompt", "question", "instruction", "messages", "conversations", "text", "chosen", "fields", "query", "turns")
)
_DECODER = json.JSONDecoder()


def json_rows(stream: Stream, around: Wrapper) -> Iterator[Row]:
    """The rows of a JSON text.

    Args:
        stream: at its beginning; is read from there twice.
        around: is told which key holds the rows, where one does, and what stands beside it.
    """
    start, is_whole, has_more = _first_line(stream)
    stream.seek(0)
    if is_whole and has_more:
        return _lines(stream)
    if start == b"[":
        return _document(stream, _array)
    return _one_by_one(stream, around) if start == b"{" else _lines(stream)


def _first_line(stream: Stream) -> tuple[bytes, bool, bool]:
    """The first character, whether its line is a whole JSON value, and whether another line says anything."""
    line = b""
    while not line.strip() and (read := stream.readline(_CHUNK)):
        line = read.removeprefix(codecs.BOM_UTF8)
    start = line.lstrip()[:1]
    if not line.endswith(b"\n"):
        line += stream.readline(_LONGEST_FIRST_LINE.get(start, _CHUNK) - len(line))
    has_more = line.endswith(b"\n") and any(read.strip() for read in iter(lambda: stream.readline(_CHUNK), b""))
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return start, False, has_more
    return start, True, has_more


def _lines(stream: Stream) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not text.strip():
            continue
        try:
            yield _row(number, json.loads(text.decode()), look=bool(_ESCAPED_HALF.search(text)))
        except (ValueError, RecursionError) as error:
            yield Row(number, {}, Malformed(_reason(error)))


def _document(stream: Stream, elements: Any) -> Iterator[Row]:
    number = 0
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            for number, value in enumerate(elements(_Window(text)), 1):
                yield _row(number, value, look=True)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        yield Row(number + 1, {}, _Broken(f"{_reason(error)}; what follows in this file cannot be read"))


class _Broken(Malformed):
    """JSON that cannot be read on."""

    @property
    def is_cut_off(self) -> bool:
        """Whether it only lacks its end."""
        return "does not end" in str(self)


def _one_by_one(stream: Stream, around: Wrapper) -> Iterator[Row]:
    """Objects over several lines, or one that wraps the rows; if it is neither, lines of which the first is broken."""
    rows = _document(io.BufferedReader(_Kept(stream)), lambda window: _objects(window, around))
    first = next(rows, None)
    if first is not None and isinstance(first.problem, _Broken) and not first.problem.is_cut_off:
        stream.seek(0)
        yield from _lines(stream)
        return
    if first is not None:
        yield first
    yield from rows


class _Kept(io.RawIOBase):
    """A stream that stays open when its reader is closed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """It is read and nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        return self._stream.readinto(buffer)


def _array(window: _Window) -> Iterator[Any]:
    """The elements of an array; an array of turns is a conversation, and so one row, which others may follow."""
    elements = _elements(window)
    first = list(islice(elements, 1))
    while is_dialogue(first) and first[0].keys() <= TURN_KEYS:
        yield [*first, *elements]
        if window.next_character() != "[":
            break
        elements = _elements(window)
        first = list(islice(elements, 1))
    else:
        yield from chain(first, elements)
    if window.next_character():
        raise ValueError("something stands after the end of the array")


def _elements(window: _Window) -> Iterator[Any]:
    window.take("[")
    if window.next_character() != "]":
        yield window.next_value()
    yield from _elements_left(window)


def _elements_left(window: _Window) -> Iterator[Any]:
    while (found := window.next_character()) != "]":
        if found != ",":
            raise ValueError("no comma between two elements" if found else "the array does not end")
        window.take(",")
        yield window.next_value()
    window.take("]")


def _objects(window: _Window, around: Wrapper) -> Iterator[Any]:
    first = True
    while window.next_character() == "{":
        yield from _object(window, around, first=first)
        first = False
    if window.next_character():
        raise ValueError("something that is no object stands after an object")


def _object(window: _Window, around: Wrapper, *, first: bool) -> Iterator[Any]:
    """The rows that an object wraps, or the object itself; only one that stands alone wraps rows in any other key."""
    fields: dict[str, Any] = {}
    wrapper = ""
    for key in _keys(window):
        if not (key in _WRAPPERS and window.holds_objects() and _RECORD.isdisjoint(fields)):
            fields[key] = window.next_value()
            continue
        if wrapper:
            raise DataError(f"holds rows in {wrapper!r} and in {key!r}: write each to a file of its own")
        wrapper = key
        yield from _elements(window)
    if not wrapper and first and not window.next_character() and (wrapper := _only_list(fields)):
        yield from fields.pop(wrapper)
    if wrapper:
        around.key = wrapper
        around.beside |= fields
    else:
        yield fields


def _keys(window: _Window) -> Iterator[str]:
    """The keys of an object; after each, the window stands at its value."""
    window.take("{")
    while (found := window.next_character()) != "}":
        if found == ",":
            window.take(",")
            found = window.next_character()
        if found != '"':
            raise ValueError("a name in quotes belongs here" if found else "the object does not end")
        key = str(window.next_value())
        if window.next_character() != ":":
            raise ValueError("a colon belongs after a name" if window.next_character() else "the object does not end")
        window.take(":")
        yield key
    window.take("}")


def _only_list(fields: Mapping[str, Any]) -> str:
    """The one field that can hold rows: a list of objects that are no turns, in an object that is no row itself.

    What stands beside rows is plain (a version, names); an object that holds other objects too is a record.
    """
    nested = [key for key, value in fields.items() if isinstance(value, dict) or _holds_objects(value)]
    holds_rows = len(nested) == 1 and isinstance(fields[nested[0]], list) and _are_rows(fields[nested[0]])
    return nested[0] if holds_rows and _RECORD.isdisjoint(fields) else ""


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)


def _are_rows(value: list[Any]) -> bool:
    return all(isinstance(row, dict) and not row.keys() & {"role", "from"} for row in value)


class _Window:
    """The part of a JSON text that is being decoded."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.position = stream, "", 0

    def next_character(self) -> str:
        """The next one that is not blank, left in place; empty at the end of the text."""
        while True:
            self.position = _BLANK.match(self.text, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._grow(_CHUNK):
                return ""

    def holds_objects(self) -> bool:
        """Whether an array of objects or of arrays comes next, not an empty one; nothing is gone past."""
        if self.next_character() != "[":
            return False
        while True:
            after = _BLANK.match(self.text, self.position + 1).end()  # type: ignore[union-attr]
            if after < len(self.text):
                return self.text[after] in "{["
            if not self._grow(_CHUNK):
                return False

    def take(self, character: str) -> None:
        """Go past a character that is known to come next."""
        assert self.next_character() == character
        self.position += 1

    def next_value(self) -> Any:
        """Decode one value, reading on while it is cut off by the window's end."""
        self.next_character()
        size = _CHUNK
        while True:
            try:
                value, self.position = _DECODER.raw_decode(self.text, self.position)
                return value
            except json.JSONDecodeError as error:
                if not (_cut_off(error) and self._grow(size)):
                    raise
                size *= 2  # a long element is tried a logarithmic number of times

    def _grow(self, size: int) -> bool:
        if len(self.text) - self.position > _LONGEST_ELEMENT:
            return False
        more = self.stream.read(size)
        self.text, self.position = self.text[self.position :] + more, 0
        return bool(more)


def _cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text could mend it: the error is at the very end, or a string was still open there."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - len("-Infinity")


def _row(number: int, value: Any, *, look: bool) -> Row:
    if look and has_half_character(value):
        return Row(number, {}, Malformed("half a character (a lone surrogate), which is no text"))
    if isinstance(value, str):
        value = _spelled_out(value)
    if isinstance(value, dict):
        return Row(number, value)
    if is_dialogue(value):
        return Row(number, {"messages": value})
    return Row(
        number, {}, Malformed(f"{kind_of(value)} where a row is an object {{...}} or a list of turns", found=value)
    )


def _spelled_out(text: str) -> Any:
    """What a string spells out in JSON; the string itself if it spells nothing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def has_half_character(value: Any) -> bool:
    """Whether a JSON value holds a text that cannot be written down: JSON can escape a lone surrogate."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply to be read"
    if isinstance(error, json.JSONDecodeError) or not str(error).startswith("Exceeds"):
        return f"broken JSON ({error.msg if isinstance(error, json.JSONDecodeError) else error})"
    return "a number too long to be read"
