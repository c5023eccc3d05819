"""Core statements turned into SQL for the driver, and writes of many rows in few steps.

Rule: every statement is written in Core and compiled once. Many rows go in one statement, not in one step each: the
driver gives up the interpreter's lock at every step and, beside a busy event loop, waits up to the interpreter's
switch interval to get it back. (executemany took 1.5 s for 1,000 rows then, this 0.05 s.)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, ColumnElement, Executable, Table, bindparam, column, update, values
from sqlalchemy import insert as core_insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT = sqlite.dialect(paramstyle="qmark")

STEPS = (256, 64, 16, 4, 1)
"""Rows a statement may take, so that few different statements are ever prepared."""

Row = tuple[Any, ...]


def compile_sql(statement: Executable) -> tuple[str, list[Any]]:
    """Return a statement's SQL and its parameters in order; those without a value are None."""
    compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)
    return compiled.string, [compiled.params[name] for name in compiled.positiontup or ()]


def filled(parameters: list[Any], *values: Any) -> list[Any]:
    """Return the parameters with these values in place of those without one, in order."""
    rest = iter(values)
    return [next(rest) if each is None else each for each in parameters]


class Bulk:
    """A statement over a ``VALUES`` list, for any number of rows."""

    def __init__(self, statement: Executable, width: int) -> None:
        """Take the statement with a list of one row of ``width`` values."""
        self._one, parameters = compile_sql(statement)
        self._marks = f"({', '.join('?' * width)})"
        assert len(parameters) == width
        assert self._one.count(self._marks) == 1
        self._sql = {size: self._one.replace(self._marks, ", ".join([self._marks] * size)) for size in STEPS}

    def run(self, cursor: sqlite3.Cursor, rows: Sequence[Row]) -> None:
        """Run it over the rows, each in the order of the columns. Raises sqlite3.Error."""
        done = 0
        for size in STEPS:
            while len(rows) - done >= size:
                cursor.execute(self._sql[size], tuple(chain.from_iterable(rows[done : done + size])))
                done += size


def insert(table: Table, *, without: Iterable[Column[Any]] = ()) -> Bulk:
    """Return the insertion of rows of a table, ``without`` the columns that the database fills."""
    columns = [each for each in table.c if each not in set(without)]
    return Bulk(core_insert(table).values({each: bindparam(each.key) for each in columns}), len(columns))


def upsert(table: Table) -> Bulk:
    """Return the insertion of rows that replace those with the same key."""
    statement = sqlite_insert(table).values({each: bindparam(each.key) for each in table.c})
    keys = list(table.primary_key.columns)
    rest = {each.key: statement.excluded[each.key] for each in table.c if not each.primary_key}
    return Bulk(statement.on_conflict_do_update(index_elements=keys, set_=rest), len(table.c))


def change(table: Table, changing: Sequence[Column[Any]]) -> Bulk:
    """Return the change of some columns; a row is (key, values of these columns)."""
    (key,) = table.primary_key.columns
    marks: list[ColumnElement[Any]] = [bindparam(f"new_{each.key}") for each in (key, *changing)]
    new = values(column(key.key), *(column(each.key) for each in changing)).data([tuple(marks)]).cte("new")
    statement = (
        update(table).where(key == new.c[key.key]).values({each: new.c[each.key] for each in changing})
    )
    return Bulk(statement, 1 + len(changing))


@cache
def sizes_up_to(limit: int) -> tuple[int, ...]:
    """Return the sizes to which lists for IN are padded: powers of two up to the limit, rising."""
    return (*(1 << power for power in range((limit - 1).bit_length())), limit)
