"""Reads of the durable state, on any thread.

Rule: every thread has a connection of its own that can only read; a read sees every commit that returned before it
began.
"""

from __future__ import annotations

import sqlite3
import threading
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, bindparam, false, select

from meshd.domain.records import AuditRecord
from meshd.domain.values import FIRST_TERMINAL, EndedAttempt, Task, TaskState
from meshd.ports.store import AuditFilter, StorageError, StoredDigest, TaskFilter
from meshd.store import rows
from meshd.store.compiled import Row, compile_sql, sizes_up_to
from meshd.store.opening import DATABASE, explained, open_reader
from meshd.store.schema import attempts, audit, is_open, outputs, payloads, tasks

CHUNK = 500
"""Most ids or keys in one statement."""


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

    def list_tasks(self, condition: TaskFilter) -> list[Task]:
        """Return tasks, newest first, without payloads."""
        statement = select(tasks).where(*_task_conditions(condition))
        statement = statement.order_by(tasks.c.key.desc()).limit(condition.limit)
        return [rows.task_from_row(row) for row in self._select(statement)]

    def list_audit(self, condition: AuditFilter) -> list[tuple[int, AuditRecord]]:
        """Return (rowid, record), newest first."""
        statement = select(audit).where(*_audit_conditions(condition))
        # Within a chain both orders are the same, and the chain's is the one with an index.
        newest = audit.c.sequence if len(condition.namespaces) == 1 else audit.c.id
        statement = statement.order_by(newest.desc()).limit(condition.limit)
        return [(row[0], rows.audit_from_row(row[1:])) for row in self._select(statement)]

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


def _task_conditions(condition: TaskFilter) -> list[ColumnElement[bool]]:
    only_open = bool(condition.states) and max(condition.states) < FIRST_TERMINAL
    if len(condition.namespaces) == 1 and not only_open:
        found = [tasks.c.namespace == condition.namespaces[0]]
    else:
        # An expression keeps the planner off the namespace's index: the order by key is worth more here.
        found = (
            [tasks.c.namespace.concat("").in_(condition.namespaces)] if condition.namespaces else [false()]
        )
    if only_open:
        found.append(is_open())
    if condition.states:
        found.append(tasks.c.state.in_([int(state) for state in condition.states]))
    if condition.task_type:
        found.append(tasks.c.task_type == condition.task_type)
    if condition.agent_id:
        found.append(tasks.c.agent_id == condition.agent_id)
    if condition.before_key:
        found.append(tasks.c.key < condition.before_key)
    return found


def _audit_conditions(condition: AuditFilter) -> list[ColumnElement[bool]]:
    if len(condition.namespaces) == 1:
        found = [audit.c.namespace == condition.namespaces[0]]
    else:
        found = (
            [audit.c.namespace.concat("").in_(condition.namespaces)] if condition.namespaces else [false()]
        )
    if condition.subject:
        found.append(audit.c.subject == condition.subject)
    if condition.method:
        found.append(audit.c.method == condition.method)
    if condition.denied_only:
        found.append(audit.c.allowed.is_(False))
    if condition.before_rowid:
        found.append(audit.c.id < condition.before_rowid)
    return found
