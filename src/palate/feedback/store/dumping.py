"""Every row of a database as lines of JSON, and back: for backups, and from one kind of database to another.

Tables are taken as the database itself describes them, so a backup from before a migration can be restored by a version
of Palate that came after it: the tables are made as they were, filled, and then migrated like any others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import JSON, Connection, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from palate.errors import DataError
from palate.feedback.store.database import Store

ROWS_AT_ONCE = 500
_VERSION = "alembic_version"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What a database held at one moment.

    Attributes:
        revision: the migration its tables are at.
        tables: a name and the rows of that table as lines of JSON; each is read once, in order.
    """

    revision: str
    tables: Iterator[tuple[str, Iterator[str]]]


def dumped(store: Store, take: Callable[[Dump], None]) -> None:
    """Hand everything in the database to ``take``, as it was at one moment, while others go on writing.

    Raises:
        DataError: there are no tables.
    """
    with store.read() as session:
        connection = session.connection()
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None:
            raise DataError(f"there is nothing in the database {store.url!r}")
        tables = _tables(connection)
        take(Dump(revision=revision, tables=((table.name, _lines(connection, table)) for table in tables)))


def restore(store: Store, revision: str, tables: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Fill an empty database with what `dumped` gave, and bring it to this version; all of it or no row.

    Returns:
        How many rows each table got.

    Raises:
        DataError: there are rows in the database already, it cannot be used, or a newer version made the backup.
    """
    try:
        with store.engine.connect() as connection:
            filled = [table.name for table in _tables(connection) if connection.execute(select(table).limit(1)).first()]
        if filled:
            raise DataError(f"there are {', '.join(filled)} in the database {store.url!r} already: give an empty one")
        store.upgrade(revision)
        with store.write() as session:
            connection = session.connection()
            known = _tables(connection)
            if strange := sorted(set(tables) - {table.name for table in known}):
                raise DataError(f"the backup has {', '.join(strange)}, which its version of the tables does not")
            rows = {table.name: _fill(connection, table, tables.get(table.name, ())) for table in known}
        store.upgrade()
    except DBAPIError as error:
        raise DataError(f"cannot use the database {store.url!r}: {str(error).strip().splitlines()[0]}") from None
    return rows


def _tables(connection: Connection) -> list[Table]:
    """As the database describes them, those that others refer to first."""
    found = MetaData()
    found.reflect(connection)
    tables = [table for table in found.sorted_tables if table.name != _VERSION]
    for column in (column for table in tables for column in table.columns if isinstance(column.type, JSON)):
        column.type = JSON(none_as_null=True)  # what the tables themselves say; a database does not
    return tables


def _lines(connection: Connection, table: Table) -> Iterator[str]:
    ordered = select(table).order_by(*table.primary_key)
    for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(ordered).mappings():
        yield json.dumps(dict(row), ensure_ascii=False, allow_nan=False)


def _fill(connection: Connection, table: Table, lines: Iterable[str]) -> int:
    count = 0
    rows = _parents_first(table, map(json.loads, lines))
    while some := list(islice(rows, ROWS_AT_ONCE)):
        connection.execute(insert(table), some)
        count += len(some)
    _go_on_counting(connection, table)
    return count


def _parents_first(table: Table, rows: Iterator[Row]) -> Iterator[Row]:
    """Rows in an order in which none names another of its own table that is not there yet."""
    own = [(key.parent.name, key.column.name) for key in table.foreign_keys if key.column.table is table]
    if not own:
        yield from rows
        return
    [(parent, name)] = own
    known: set[Any] = {None}
    waiting: dict[Any, list[Row]] = defaultdict(list)
    for first in rows:
        ready = [first]
        while ready:
            row = ready.pop()
            if row[parent] in known:
                known.add(row[name])
                ready += waiting.pop(row[name], [])
                yield row
            else:
                waiting[row[parent]].append(row)
    if waiting:
        raise DataError(
            f"rows of {table.name} name others that are not there: {', '.join(map(str, list(waiting)[:3]))}"
        )


def _go_on_counting(connection: Connection, table: Table) -> None:
    """PostgreSQL counts for itself, and knows nothing of numbers that were written; SQLite looks for the largest."""
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key:
        sequence = isinstance(column.type, Integer) and connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
        )
        if sequence:
            largest = connection.scalar(select(func.max(column)))
            connection.execute(
                text("SELECT setval(:sequence, :next, false)"), {"sequence": sequence, "next": (largest or 0) + 1}
            )
