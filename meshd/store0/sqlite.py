"""SQLite behind the port ``Store``: WAL, synchronous=FULL, one process, one connection that writes.

Invariants: exactly one connection ever writes or checkpoints (old SQLite can corrupt a WAL otherwise), every other one
is query-only; after a failed commit nothing is accepted any more, because SQLite itself would go on after a failed
fsync and pretend.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Select, bindparam, delete, func, select
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.sql import ClauseElement

from meshd.domain.records import (
    AuditRecord,
    IdentityRecord,
    JoinTokenRecord,
    RevocationRecord,
    SigningKeyRecord,
    Writes,
)
from meshd.domain.values import EndedAttempt, NamespaceInfo, Task, TaskState
from meshd.ports.store import AuditFilter, Restored, StorageError, StoredDigest, TaskFilter
from meshd.store0 import hot, rows
from meshd.store0 import schema as s
from meshd.store0.files import open_database

SPACE_CHECK_INTERVAL_S = 1.0
LOOKUP_CHUNK = 500
BUILT_IN_NAMESPACES = ("default", "_mesh")


class Statement(NamedTuple):
    """One executemany of a commit."""

    sql: str
    rows: list[Any]


class SqliteStore:
    """Durable state in one SQLite file of a data directory."""

    def __init__(self, data_dir: Path, min_free_bytes: int = 64 * 1024 * 1024) -> None:
        """Take the directory's lock, open the database, bring it to the newest schema. Raises StorageError."""
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes
        self._files = open_database(data_dir)
        self._writer = self._files.writer
        self._failed = ""
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._space_checked_mono = float("-inf")
        self._low_space = False

    # ---- start

    def load(self) -> Restored:
        """Raise every namespace's epoch durably and return what a start needs."""
        now_ms = time.time_ns() // 1_000_000
        try:
            run = self._writer.execute
            run("BEGIN IMMEDIATE")
            run("UPDATE namespaces SET epoch = epoch + 1")
            for name in BUILT_IN_NAMESPACES:
                run("INSERT OR IGNORE INTO namespaces VALUES (?, '', ?, 1)", (name, now_ms))
            run("COMMIT")
            return Restored(
                namespaces=[NamespaceInfo(*row) for row in self._all(select(s.namespaces).order_by(s.namespaces.c.name))],
                agents=[rows.agent_from_row(row) for row in self._all(select(s.agents))],
                tasks=[
                    rows.task_from_row(row)
                    for row in self._all(select(s.tasks).where(s.tasks.c.state < 5).order_by(s.tasks.c.key))  # noqa: PLR2004
                ],
                next_key=(self._all(select(func.max(s.tasks.c.key)))[0][0] or 0) + 1,
                join_tokens=[
                    JoinTokenRecord._make((*row[:4], _words(row[4]), *row[5:]))
                    for row in self._all(select(s.join_tokens).where(s.join_tokens.c.expire_ms > now_ms))
                ],
                identities=[
                    IdentityRecord._make((*row[:3], _words(row[3]), *row[4:])) for row in self._all(select(s.identities))
                ],
                revocations=[
                    RevocationRecord(*row)
                    for row in self._all(select(s.revocations).where(s.revocations.c.keep_until_ms > now_ms))
                ],
                signing_keys=[SigningKeyRecord(*row) for row in self._all(select(s.signing_keys))],
                audit_heads=self._audit_heads(),
            )
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise StorageError(
                f"the database {self._files.path} cannot be read ({error}); "
                "keep a copy of it and restore the newest backup"
            ) from error

    def _audit_heads(self) -> dict[str, tuple[int, bytes]]:
        newest = select(s.audit.c.namespace, func.max(s.audit.c.sequence)).group_by(s.audit.c.namespace)
        heads = {}
        for namespace, sequence in self._all(newest):
            where = (s.audit.c.namespace == namespace) & (s.audit.c.sequence == sequence)
            heads[namespace] = (sequence, self._all(select(s.audit.c.hash).where(where))[0][0])
        return heads

    # ---- writing

    def snapshot(self, writes: Writes) -> list[Statement]:
        """Copy everything mutable into rows."""
        batch = []

        def add(sql: str, values: list[Any]) -> None:
            if values:
                batch.append(Statement(sql, values))

        new = writes.new_tasks.values()
        add(hot.UPSERT_NAMESPACE, list(writes.namespaces))
        add(hot.INSERT_TASK, [rows.task_to_row(task) for task in new])
        add(hot.INSERT_PAYLOAD, [(task.key, task.spec.payload) for task in new if task.spec.payload])
        add(hot.UPDATE_TASK, [(*rows.task_state(task), task.key) for task in writes.changed_tasks.values()])
        add(hot.INSERT_OUTPUT, [output for output in writes.outputs if output[1]])
        add(hot.INSERT_ATTEMPT, [rows.attempt_to_row(ended) for ended in writes.attempts])
        add(hot.UPSERT_AGENT, [rows.agent_to_row(agent) for agent in writes.agents.values()])
        add(
            hot.UPSERT_JOIN_TOKEN,
            [(*t[:4], " ".join(t.capabilities), *t[5:]) for t in writes.join_tokens.values()],
        )
        add(
            hot.UPSERT_IDENTITY,
            [(*i[:3], " ".join(i.capabilities), *i[4:]) for i in writes.identities.values()],
        )
        add(hot.UPSERT_REVOCATION, list(writes.revocations))
        add(hot.UPSERT_SIGNING_KEY, list(writes.signing_keys))
        add(hot.INSERT_AUDIT, list(writes.audit))
        return batch

    def commit(self, batch: list[Statement]) -> None:
        """Make a snapshot durable."""
        self._refuse_after_failure()
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for statement in batch:
                self._writer.executemany(statement.sql, statement.rows)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def sweep(self, ended_before_ms: int, limit: int) -> int:
        """Delete up to ``limit`` tasks that ended before."""
        self._refuse_after_failure()
        over = (s.tasks.c.state >= 5) & (s.tasks.c.end_ms < ended_before_ms)  # noqa: PLR2004
        try:
            keys = [row[0] for row in self._all(select(s.tasks.c.key).where(over).limit(limit))]
            if not keys:
                return 0
            self._writer.execute("BEGIN IMMEDIATE")
            for column in (s.tasks.c.key, s.payloads.c.task_key, s.outputs.c.task_key, s.attempts.c.task_key):
                statement = delete(column.table).where(column == bindparam("key"))
                self._writer.executemany(_compile(statement)[0], [(key,) for key in keys])
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._fail(error) from error
        return len(keys)

    def low_space(self) -> bool:
        """True when the storage is so full that new work must be refused."""
        now = time.monotonic()
        if now - self._space_checked_mono > SPACE_CHECK_INTERVAL_S:
            self._space_checked_mono = now
            self._low_space = shutil.disk_usage(self._data_dir).free < self._min_free_bytes
        return self._low_space

    def close(self) -> None:
        """Checkpoint and release the lock."""
        with self._readers_lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
        self._files.close(checkpoint=not self._failed)

    def _fail(self, error: sqlite3.Error) -> StorageError:
        self._failed = str(error)
        try:
            self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            # There is nothing to roll back, or the storage is gone: either way nothing is accepted any more.
            return StorageError(f"a commit to {self._files.path} failed: {error}; free its disk, then start meshd again")
        return StorageError(f"a commit to {self._files.path} failed: {error}; see to its disk, then start meshd again")

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise StorageError(f"an earlier commit failed ({self._failed}); start meshd again")

    # ---- reading

    def find_digests(self, namespace: str, task_ids: list[str]) -> list[StoredDigest]:
        """Return those of the ids that are durable."""
        found: list[StoredDigest] = []
        reader = self._reader()
        for start in range(0, len(task_ids), LOOKUP_CHUNK):
            chunk = task_ids[start : start + LOOKUP_CHUNK]
            marks = ",".join("?" * len(chunk))
            sql = f"SELECT task_id, key, digest, state FROM tasks WHERE namespace = ? AND task_id IN ({marks})"  # noqa: S608  # only question marks are put in
            found += [StoredDigest._make((*row[:3], TaskState(row[3]))) for row in reader.execute(sql, (namespace, *chunk))]
        return found

    def get_task(self, namespace: str, task_id: str) -> Task | None:
        """Return a task without payload, or None."""
        where = (s.tasks.c.namespace == namespace) & (s.tasks.c.task_id == task_id)
        found = self._read(select(s.tasks).where(where))
        return rows.task_from_row(found[0]) if found else None

    def get_payload(self, key: int) -> bytes:
        """Return the encoded input of a task."""
        return self.get_payloads([key])[key]

    def get_payloads(self, keys: list[int]) -> dict[int, bytes]:
        """Return the encoded inputs of several tasks."""
        bodies = dict.fromkeys(keys, b"")
        for start in range(0, len(keys), LOOKUP_CHUNK):
            chunk = keys[start : start + LOOKUP_CHUNK]
            bodies.update(self._read(select(s.payloads).where(s.payloads.c.task_key.in_(chunk))))
        return bodies

    def get_output(self, key: int) -> bytes:
        """Return the encoded result of a task."""
        found = self._read(select(s.outputs.c.body).where(s.outputs.c.task_key == key))
        return found[0][0] if found else b""

    def list_attempts(self, key: int, limit: int) -> list[EndedAttempt]:
        """Return the newest ended attempts of a task, oldest first."""
        newest = select(s.attempts).where(s.attempts.c.task_key == key).order_by(s.attempts.c.number.desc())
        return [rows.attempt_from_row(row) for row in reversed(self._read(newest.limit(limit)))]

    def list_tasks(self, condition: TaskFilter) -> list[Task]:
        """Return tasks, newest first, without payloads."""
        query = select(s.tasks).where(s.tasks.c.namespace.in_(condition.namespaces))
        if condition.states:
            query = query.where(s.tasks.c.state.in_([int(state) for state in condition.states]))
        if condition.task_type:
            query = query.where(s.tasks.c.task_type == condition.task_type)
        if condition.agent_id:
            query = query.where(s.tasks.c.agent_id == condition.agent_id)
        if condition.before_key:
            query = query.where(s.tasks.c.key < condition.before_key)
        return [rows.task_from_row(r) for r in self._read(query.order_by(s.tasks.c.key.desc()).limit(condition.limit))]

    def list_audit(self, condition: AuditFilter) -> list[tuple[int, AuditRecord]]:
        """Return (rowid, record), newest first."""
        query = select(s.audit).where(s.audit.c.namespace.in_(condition.namespaces))
        if condition.subject:
            query = query.where(s.audit.c.subject == condition.subject)
        if condition.method:
            query = query.where(s.audit.c.method == condition.method)
        if condition.denied_only:
            query = query.where(s.audit.c.allowed == False)  # noqa: E712  # SQL, not Python
        if condition.before_rowid:
            query = query.where(s.audit.c.row < condition.before_rowid)
        found = self._read(query.order_by(s.audit.c.row.desc()).limit(condition.limit))
        return [(row[0], AuditRecord._make((*row[1:8], bool(row[8]), *row[9:]))) for row in found]

    def _reader(self) -> sqlite3.Connection:
        """Return this thread's query-only connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._files.new_reader()
            self._local.connection = connection
            with self._readers_lock:
                self._readers.append(connection)
        return connection

    def _read(self, query: Select[Any]) -> list[Any]:
        return self._run(self._reader(), query)

    def _all(self, query: Select[Any]) -> list[Any]:
        return self._run(self._writer, query)

    def _run(self, connection: sqlite3.Connection, query: Select[Any]) -> list[Any]:
        return connection.execute(*_compile(query)).fetchall()


def _compile(statement: ClauseElement) -> tuple[str, list[Any]]:
    compiled = statement.compile(
        dialect=dialect.dialect(paramstyle="qmark"), compile_kwargs={"render_postcompile": True}
    )
    return str(compiled), [compiled.params[name] for name in compiled.positiontup or ()]  # type: ignore[attr-defined]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())
