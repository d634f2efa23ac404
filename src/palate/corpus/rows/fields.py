"""An object of a row that remembers which of its fields were read, at every depth.

What a parser does not read cannot be kept, so what was never read is exactly what an import would leave out: there is
no list of known columns that could be wrong. A null field is as good as an absent one, since columnar files fill every
row with the fields of all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class Tracked(Mapping[str, Any]):
    """A row, or an object within one.

    Asking whether a field is there does not read it; taking it does. Objects and lists that are taken count as read as
    far as their own fields are; `plain` takes everything.

    Args:
        values: the fields as they stand in the file.
        path: where the object stands in its row, its names joined by dots; lists add nothing to it.
        names: what fields are called in the file, where that is not their own name.
    """

    __slots__ = ("_inner", "_names", "_nulls", "_read", "_values", "_whole", "path")

    def __init__(self, values: Mapping[str, Any], path: str = "", names: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._values = {key: value for key, value in values.items() if value is not None}
        self._nulls = frozenset(values.keys() - self._values.keys())
        self._names = names or {}
        self._read: set[str] = set()
        self._inner: dict[str, Any] = {}
        self._whole = False

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        self._read.add(key)
        if not isinstance(value, dict | list):
            return value
        if key not in self._inner:
            self._inner[key] = _wrapped(value, self.label(key))
        return self._inner[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def label(self, key: str) -> str:
        """What the field is called in the file, with the names of what it stands in."""
        name = self._names.get(key, key)
        return f"{self.path}.{name}" if self.path else name

    @property
    def nulls(self) -> frozenset[str]:
        """The fields that are there and hold nothing."""
        return self._nulls

    def peek(self, key: str) -> Any:
        """A field's plain value, without reading it; None where it is absent."""
        return plain(self._values.get(key), read=False)

    def used(self) -> Iterator[str]:
        """The label of every field that was read."""
        return (self.label(key) for key in self._values if self._whole or key in self._read)

    def unread(self) -> Iterator[tuple[str, Any]]:
        """The label and value of every field that holds something and was not read."""
        for each in self._objects():
            if not each._whole:
                for key, value in each._values.items():
                    if key not in each._read and has_value(value):
                        yield each.label(key), value

    def read_texts(self) -> Iterator[str]:
        """Every text that was read, blanks at its ends left away."""
        for each in self._objects():
            for key in each._values if each._whole else each._read:
                if each._whole or key not in each._inner:
                    yield from texts_in(each._values[key])
                else:
                    yield from texts_in([item for item in _flat(each._inner[key]) if isinstance(item, str)])

    def _objects(self) -> Iterator[Tracked]:
        """This object and all within it that were taken; without recursion, since a tree of answers may be deep."""
        waiting: list[Any] = [self]
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting.extend(reversed(each))
            elif isinstance(each, Tracked):
                yield each
                if each._whole:
                    continue
                waiting.extend(each._inner[key] for key in reversed(each._values) if key in each._inner)

    def _take(self, read: bool) -> dict[str, Any]:
        self._whole = self._whole or read
        return {key: plain(value, read=read) for key, value in self._values.items()}


def has_value(value: Any) -> bool:
    """Whether a field says anything: null, blank text and empty lists do not; 0 and false do."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | dict | tuple | Tracked) and not len(value))


def plain(value: Any, *, read: bool = True) -> Any:
    """The value as dictionaries and lists, without null fields; all of it counts as read."""
    if isinstance(value, Tracked):
        return value._take(read)
    if isinstance(value, Mapping):
        return {key: plain(each, read=read) for key, each in value.items() if each is not None}
    return [plain(each, read=read) for each in value] if isinstance(value, list | tuple) else value


def label(row: Mapping[str, Any], key: str) -> str:
    """What a field is called in the file."""
    return row.label(key) if isinstance(row, Tracked) else key


def is_null(row: Mapping[str, Any], key: str) -> bool:
    """Whether a field is there and holds nothing."""
    return key in row.nulls if isinstance(row, Tracked) else key in row and row[key] is None


def peek(row: Mapping[str, Any], key: str) -> Any:
    """A field's plain value, without reading it; None where it is absent."""
    return row.peek(key) if isinstance(row, Tracked) else row.get(key)


def texts_in(value: Any) -> Iterator[str]:
    """Every text within a value, blanks at the ends left away."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each.strip()
        elif isinstance(each, Mapping | list | tuple):
            waiting.extend(each.values() if isinstance(each, Mapping) else each)


def without(values: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], set[str]]:
    """An object without these fields, which may be dotted names of nested ones; and those that it had."""
    left, found = dict(values), set[str]()
    for name in names:
        if name in left:
            del left[name]
            found.add(name)
            continue
        head, dot, rest = name.partition(".")
        if dot and head in left:
            left[head], inside = _without_inside(left[head], rest)
            found |= {name} if inside else set()
    return left, found


def _without_inside(value: Any, name: str) -> tuple[Any, bool]:
    if isinstance(value, dict):
        left, found = without(value, [name])
        return left, bool(found)
    if isinstance(value, list):
        parts = [_without_inside(each, name) for each in value]
        return [part for part, _ in parts], any(found for _, found in parts)
    return value, False


def nested(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by the dotted name of one within objects and lists (`answers.0.text`).

    Raises:
        KeyError: it is not there.
    """
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    if not dot or head not in row:
        raise KeyError(name)
    value = row[head]
    while isinstance(value, list):
        place, _, rest = rest.partition(".")
        if not (place.isdigit() and int(place) < len(value)):
            raise KeyError(name)
        value = value[int(place)]
        if not rest:
            return value
    if not isinstance(value, Mapping):
        raise KeyError(name)
    return nested(value, rest)


def _flat(value: Any) -> Iterator[Any]:
    """The items of a list and of the lists within it."""
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _wrapped(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return Tracked(value, path)
    return [_wrapped(each, path) for each in value] if isinstance(value, list) else value
