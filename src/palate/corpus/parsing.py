"""One row through the parsers of its format, and what each makes of it; nothing raises but our own mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from palate.corpus.catalogue.format import Item, Parser
from palate.corpus.formats.columns import tags_of
from palate.corpus.rows.fields import Tracked
from palate.corpus.rows.rejections import Malformed, Rejected, Unusable
from palate.records import Prompt, Ranking


def parsed(parser: Parser, row: Tracked, tags: Sequence[str] = ()) -> Iterator[Item | Rejected]:
    """A parser's items, tagged and checked; its exceptions become items too."""
    try:
        found = tags_of(row, tags)
        for item in parser(row):
            yield item if isinstance(item, Unusable) else _checked(_tagged(item, found))
    except Rejected as problem:
        yield problem
    except ValidationError as error:
        yield Malformed(*_explain(error))


def _checked(item: Item) -> Item | Unusable:
    if isinstance(item, Ranking) and len(item.responses) > 1 and len({each.parts for each in item.responses}) == 1:
        return Unusable("identical responses: whatever was said of them, there is nothing to tell them apart by")
    return item


def _tagged(item: Item, tags: Mapping[str, str]) -> Item:
    if not tags or isinstance(item, str):
        return item
    if isinstance(item, Prompt):
        return item.model_copy(update={"tags": {**item.tags, **tags}})
    return item.model_copy(update={"prompt": _tagged(item.prompt, tags)})


def _explain(error: ValidationError) -> tuple[str]:
    problem: Any = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    message = problem["msg"].removeprefix("Value error, ")
    return (f"field {where!r}: {message}" if where else message,)
