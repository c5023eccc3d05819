"""Reads of the durable state, on any thread.

Rule: every thread has a connection of its own that can only read; a read sees every commit that returned before it
began. A list looks at a bounded number of rows between two questions whether it should stop.
"""

from __future__ import annotations

import sqlite3
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Executable,
    Integer,
    Select,
    Table,
    bindparam,
    false,
    select,
)

from meshd.domain.records import AuditRecord
from meshd.domain.values import FIRST_TERMINAL, EndedAttempt, Task, TaskState
from meshd.ports.store import AuditFilter, Listed, Stop, StorageError, StoredDigest, TaskFilter, never
from meshd.store import rows
from meshd.store.compiled import Row, compile_sql, filled, sizes_up_to
from meshd.store.opening import DATABASE, explained, open_reader
from meshd.store.schema import attempts, audit, is_open, outputs, payloads, tasks

CHUNK = 500
"""Most ids or keys in one statement."""

LOOKED_AT_ONCE = 4_000
"""Most rows that a list looks at in one step: some milliseconds; the first steps are shorter."""

MAX_POSITION = 2**63 - 1
"""Beyond every key."""


class Walk(NamedTuple):
    """A way through a table, from the newest row down along an index, and what is wanted of what lies on it."""

    table: Table
    position: Column[int]
    walked: list[ColumnElement[bool]]
    """What the index knows: every row on the way fulfils it."""
    wanted: list[ColumnElement[bool]]

    def end_of_piece(self) -> Select[Any]:
        """Find the position at which a piece ends, given (before, rows but one)."""
        way = select(self.position).where(self.position < _later("before"), *self.walked)
        return way.order_by(self.position.desc()).limit(1).offset(_later("skipped"))

    def piece(self) -> Select[Any]:
        """Find what is wanted of a piece, given (before, its end, limit)."""
        here = self.position < _later("before"), self.position >= _later("end")
        found = select(self.table).where(*here, *self.walked, *self.wanted)
        return found.order_by(self.position.desc()).limit(_later("limit"))

    def position_of(self, row: Row) -> int:
        """Return where a row lies."""
        return int(row[list(self.table.c).index(self.position)])


def _later(name: str) -> BindParameter[int]:
    return bindparam(name, None, Integer)


class SqliteReads:
    """The reading half of the store."""

    def __init__(self, directory: Path) -> None:
        """Take the data directory; its database must exist when the first read comes."""
        self._directory = directory.absolute()
        self._path = self._directory / DATABASE
        self._own = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._refusal = ""
        """Why nothing more is done, once that is so."""

    def find_digests(self, namespace: str, task_ids: list[str]) -> list[StoredDigest]:
        """Return those of the ids that are durable, open or ended."""
        found: list[Row] = []
        for start in range(0, len(task_ids), CHUNK):
            part = _padded(task_ids[start : start + CHUNK])
            found += self._read(_find_digests(len(part)), [namespace, *part])
        return [StoredDigest(task_id, key, digest, TaskState(state)) for task_id, key, digest, state in found]

    def list_ids(self, after_key: int, limit: int) -> list[tuple[int, str, str]]:
        """Return (key, namespace, task id) of tasks above a key, open or ended, in order of key."""
        statement = select(tasks.c.key, tasks.c.namespace, tasks.c.task_id).where(tasks.c.key > after_key)
        return list(self._select(statement.order_by(tasks.c.key).limit(limit)))

    def get_task(self, namespace: str, task_id: str) -> Task | None:
        """Return a task without payload, or None."""
        found = self._read(_get_task(), [task_id, namespace])
        return rows.task_from_row(found[0]) if found else None

    def get_payload(self, key: int) -> bytes:
        """Return the encoded input of a task; b"" when there is none."""
        return self.get_payloads([key])[key]

    def get_payloads(self, keys: list[int]) -> dict[int, bytes]:
        """Return the encoded inputs of several tasks; b"" for those without one."""
        found: list[Row] = [(key, b"") for key in keys]
        for start in range(0, len(keys), CHUNK):
            part = _padded(keys[start : start + CHUNK])
            found += self._read(_get_payloads(len(part)), part)
        return dict(found)

    def get_output(self, key: int) -> bytes:
        """Return the encoded result of a task; b"" when there is none."""
        found = self._read(_get_output(), [key])
        return bytes(found[0][0]) if found else b""

    def list_attempts(self, key: int, limit: int) -> list[EndedAttempt]:
        """Return the newest ended attempts of a task, oldest first."""
        statement = (
            select(attempts).where(attempts.c.task_key == key).order_by(attempts.c.number.desc()).limit(limit)
        )
        return [rows.attempt_from_row(row) for row in reversed(self._select(statement))]

    def list_tasks(self, condition: TaskFilter, stop: Stop = never) -> Listed[Task]:
        """Return tasks, newest first, without payloads."""
        found, rest = self._list(_task_walk(condition), condition.before_key, condition.limit, stop)
        return Listed([rows.task_from_row(row) for row in found], rest)

    def list_audit(self, condition: AuditFilter, stop: Stop = never) -> Listed[AuditRecord]:
        """Return audit records, newest first."""
        found, rest = self._list(_audit_walk(condition), condition.before, condition.limit, stop)
        return Listed([rows.audit_from_row(row[1:]) for row in found], rest)

    def _list(self, walk: Walk, before: int, limit: int, stop: Stop) -> tuple[list[Row], int]:
        """Walk down piece by piece until the page is full, told to stop, or at the end; return the rows and the rest."""
        look, look_parameters = compile_sql(walk.piece())
        find_end, end_parameters = compile_sql(walk.end_of_piece())
        found: list[Row] = []
        before, piece = before or MAX_POSITION, limit + 1
        while True:
            ends = self._read(find_end, filled(end_parameters, before, piece - 1))
            end = ends[0][0] if ends else 0
            # One more than the page tells whether there is a rest.
            missing = limit + 1 - len(found)
            found += self._read(look, filled(look_parameters, before, end, missing))
            if len(found) > limit:
                return found[:limit], walk.position_of(found[limit - 1])
            if not ends or stop():
                return found, end
            before, piece = end, min(4 * piece, LOOKED_AT_ONCE)

    def close_readers(self) -> None:
        """Close every thread's connection; no read may be running."""
        with self._readers_lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()

    def refuse_if_over(self) -> None:
        """Raise StorageError once the store has failed or is closed."""
        if self._refusal:
            raise StorageError(self._refusal)

    def _select(self, statement: Select[Any]) -> list[Row]:
        return self._read(*compile_sql(statement))

    def _read(self, sql: str, parameters: list[Any]) -> list[Row]:
        self.refuse_if_over()
        with explained(self._path):
            reader: sqlite3.Connection | None = getattr(self._own, "reader", None)
            if reader is None:
                reader = self._own.reader = open_reader(self._path)
                with self._readers_lock:
                    self._readers.append(reader)
            return reader.execute(sql, parameters).fetchall()


@cache
def _find_digests(count: int) -> str:
    wanted = [bindparam(f"id_{number}", type_=tasks.c.task_id.type) for number in range(count)]
    found = select(tasks.c.task_id, tasks.c.key, tasks.c.digest, tasks.c.state)
    return _sql(found.where(tasks.c.namespace == bindparam("namespace"), tasks.c.task_id.in_(wanted)))


@cache
def _get_task() -> str:
    return _sql(
        select(tasks).where(tasks.c.task_id == bindparam("id"), tasks.c.namespace == bindparam("name"))
    )


@cache
def _get_payloads(count: int) -> str:
    wanted = [bindparam(f"key_{number}", type_=payloads.c.task_key.type) for number in range(count)]
    return _sql(select(payloads).where(payloads.c.task_key.in_(wanted)))


@cache
def _get_output() -> str:
    return _sql(select(outputs.c.body).where(outputs.c.task_key == bindparam("key")))


def _sql(statement: Executable) -> str:
    return compile_sql(statement)[0]


def _padded(values: list[Any]) -> list[Any]:
    """Repeat the last value up to the next size, so that few different statements are compiled."""
    size = next(size for size in sizes_up_to(CHUNK) if size >= len(values))
    return values + values[-1:] * (size - len(values))


def _task_walk(condition: TaskFilter) -> Walk:
    walked, wanted = [], []
    if condition.states and max(condition.states) < FIRST_TERMINAL:
        walked.append(is_open())
        wanted.append(_one_of(tasks.c.namespace, condition.namespaces))
    elif len(condition.namespaces) == 1:
        walked.append(tasks.c.namespace == condition.namespaces[0])
    else:
        wanted.append(_one_of(tasks.c.namespace, condition.namespaces))
    if condition.states:
        wanted.append(tasks.c.state.in_([int(state) for state in condition.states]))
    if condition.task_type:
        wanted.append(tasks.c.task_type == condition.task_type)
    if condition.agent_id:
        wanted.append(tasks.c.agent_id == condition.agent_id)
    return Walk(tasks, tasks.c.key, walked, wanted)


def _audit_walk(condition: AuditFilter) -> Walk:
    wanted = []
    if condition.subject:
        wanted.append(audit.c.subject == condition.subject)
    if condition.method:
        wanted.append(audit.c.method == condition.method)
    if condition.denied_only:
        wanted.append(audit.c.allowed.is_(False))
    if len(condition.namespaces) == 1:
        return Walk(audit, audit.c.sequence, [audit.c.namespace == condition.namespaces[0]], wanted)
    return Walk(audit, audit.c.id, [], [_one_of(audit.c.namespace, condition.namespaces), *wanted])


def _one_of(namespace: Column[str], names: tuple[str, ...]) -> ColumnElement[bool]:
    # An expression keeps the planner off the namespace's index: the order of the walk is worth more here.
    return namespace.concat("").in_(names) if names else false()
