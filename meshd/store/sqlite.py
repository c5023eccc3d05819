"""The durable store in SQLite: its life, its commits and its sweep.

Invariant: after one failed write nothing more is written or read. SQLite goes on accepting commits after a failed
fsync, as if nothing had been lost; we must not. A full disk alone is no failure: the system took nothing, the
transaction is rolled back, and the same rows are written again when there is space.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import delete, func, insert, select, update

from meshd.domain.records import RevocationRecord, SigningKeyRecord, Writes
from meshd.domain.values import NamespaceInfo
from meshd.ports.gauges import StorageGauges
from meshd.ports.store import Restored, StorageError, StorageFullError
from meshd.store import hot, rows, schema
from meshd.store.compiled import Row, compile_sql
from meshd.store.lock import DirectoryLock
from meshd.store.opening import LOG_LIMIT_BYTES, damaged, explained, fold_log, open_writer
from meshd.store.reads import CHUNK, SqliteReads
from meshd.store.reserve import Reserve
from meshd.store.schema import has_ended, is_open, tasks

FOREVER_NAMESPACES = ("_mesh", "default")
MIN_FREE_BYTES = 64 * 1024 * 1024
SPACE_CHECK_S = 1.0
FULL_RETRY_S = 0.25

T = TypeVar("T")

log = structlog.get_logger()


class SqliteStore(SqliteReads):
    """The port ``Store`` over one data directory."""

    def __init__(self, directory: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        """Make or open the data directory; ``low_space`` speaks of less than ``min_free_bytes`` free on its disk.

        Raises StorageError when another process uses it, or its database is damaged or newer than this code.
        """
        super().__init__(directory)
        self._min_free_bytes = min_free_bytes
        self._space_check_mono = -SPACE_CHECK_S
        self._low_space = False
        self._lock = DirectoryLock(self._directory)
        self._log_path = self._path.with_name(f"{self._path.name}-wal")
        # Half of what new work leaves: giving it back does not let new work in again.
        self._reserve = Reserve(self._directory, min_free_bytes // 2, min_free_bytes)
        self._reserve_check_mono = time.monotonic()
        try:
            self._writer, self.former_revision = self._opened()
        except BaseException:
            self._lock.release()
            raise
        self._reserve.take()

    def _opened(self) -> tuple[sqlite3.Connection, str | None]:
        while True:
            try:
                return open_writer(self._path)
            except StorageFullError:
                if not self._reserve.give():
                    raise

    def load(self) -> Restored:
        """Raise every namespace's epoch durably and return what a start needs. Raises StorageError."""
        self._durably(self._raise_epochs, wait=False)
        # Outside of the transaction: nobody else writes, and a long read need not hold it open.
        with explained(self._path):
            try:
                return self._restore()
            except (ValueError, TypeError, KeyError) as error:
                raise damaged(self._path, error) from error

    def snapshot(self, writes: Writes) -> hot.Batch:
        """Copy everything mutable into rows. Called on the event loop; fast, no I/O."""
        return hot.snapshot(writes)

    def commit(self, batch: hot.Batch) -> None:
        """Make a snapshot durable. Called on the one writer thread. Raises StorageError.

        On a full disk it uses the reserve, and without that waits until there is space.
        """
        self._durably(lambda: hot.write(self._writer, batch))
        now_mono = time.monotonic()
        if now_mono - self._reserve_check_mono >= SPACE_CHECK_S:
            self._reserve_check_mono = now_mono
            self._reserve.take()
            self._fold_long_log()

    def commit_restored(self, writes: Writes, watermark_ms: int) -> None:
        """Make a backup the present: no fence and no token handed out until now is valid any more.

        ``writes`` end what was under way. Raises StorageError.
        """

        def write() -> None:
            hot.write(self._writer, hot.snapshot(writes))
            # Attempts are counted up from where the backup left them: only the incarnation tells old fences apart.
            self._execute(update(tasks).where(is_open()).values(incarnation=func.random()))
            self._execute(insert(schema.token_watermarks).values(watermark_ms=watermark_ms))

        self._durably(write, wait=False)

    def low_space(self) -> bool:
        """True when the storage is so full that new work must be refused; looked up once a second."""
        now_mono = time.monotonic()
        if now_mono - self._space_check_mono >= SPACE_CHECK_S:
            self._space_check_mono = now_mono
            before = self._low_space
            try:
                self._low_space = shutil.disk_usage(self._directory).free < self._min_free_bytes
            except OSError:
                self._low_space = True
            if self._low_space != before:
                self._say_whether_low()
        return self._low_space

    def _say_whether_low(self) -> None:
        data_dir, min_free_mib = str(self._directory), self._min_free_bytes // 1_048_576
        if self._low_space:
            log.warning(
                "the disk has less space than min_free_mib; new work is refused until some is freed",
                data_dir=data_dir,
                min_free_mib=min_free_mib,
            )
        else:
            log.info("the disk has space again; new work is taken", data_dir=data_dir)

    def measure(self) -> StorageGauges:
        """Return what the database takes of its disk, its log included, and what is left."""
        size_bytes = _size_bytes(self._path) + _size_bytes(self._log_path)
        try:
            free_bytes = shutil.disk_usage(self._directory).free
        except OSError:
            free_bytes = 0
        return StorageGauges(
            f"SQLite {sqlite3.sqlite_version}", size_bytes, free_bytes, self._min_free_bytes, self.low_space()
        )

    def sweep(self, ended_before_ms: int, limit: int) -> int:
        """Delete up to ``limit`` tasks that ended before; called on the writer thread. Returns how many went.

        Join tokens, revocations and lifted drains that have meant nothing since then go too.
        """
        self._durably(partial(self._sweep_records, ended_before_ms))
        swept = 0
        while swept < limit:
            count = self._durably(partial(self._sweep_tasks, ended_before_ms, min(CHUNK, limit - swept)))
            swept += count
            if count < CHUNK:
                break
        return swept

    def close(self) -> None:
        """Checkpoint and release the lock; a second call changes nothing."""
        self._refusal = self._refusal or "the store is closed"
        try:
            with explained(self._path):
                self.close_readers()
                # The last connection to go folds the log into the database.
                self._writer.close()
        finally:
            self._lock.release()

    # ---- the writing connection ----------------------------------------------------------------------------------

    def _durably(self, write: Callable[[], T], *, wait: bool = True) -> T:
        """Do it in one durable transaction, again and again while the disk is full, or to the end of the reserve.

        Any other failure is the last thing this store does.
        """
        waiting = False
        while True:
            self.refuse_if_over()
            try:
                with explained(self._path):
                    self._writer.execute("BEGIN IMMEDIATE")
                    result = write()
                    self._writer.execute("COMMIT")
                    return result
            except StorageFullError as error:
                self._roll_back()
                if self._reserve.give():
                    continue
                if not wait:
                    self._refusal = f"an earlier commit failed ({error}); start meshd again"
                    raise
                if not waiting:
                    log.warning(
                        "the disk is full; nothing is acknowledged until there is space: free some for data_dir",
                        data_dir=str(self._directory),
                    )
                waiting = True
                time.sleep(FULL_RETRY_S)
            except BaseException as error:
                self._refusal = f"an earlier commit failed ({error}); start meshd again"
                self._roll_back()
                if isinstance(error, Exception) and not isinstance(error, StorageError):
                    raise StorageError(
                        f"the database {self._path} refused a commit: {error!r}; report this"
                    ) from error
                raise

    def _fold_long_log(self) -> None:
        """See why the log has become long: commits fold it, and say nothing when that fails. Raises StorageError."""
        if _size_bytes(self._log_path) <= LOG_LIMIT_BYTES:
            return
        try:
            with explained(self._path):
                fold_log(self._writer)
        except StorageFullError:
            pass  # What is in the log is durable. Commits wait when there is no space for it either.
        except StorageError as error:
            self._refusal = f"the log could not be folded into the database ({error}); start meshd again"
            raise

    def _roll_back(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            pass

    def _execute(self, statement: Any) -> list[Row]:
        sql, parameters = compile_sql(statement)
        return self._writer.execute(sql, parameters).fetchall()

    # ---- start ---------------------------------------------------------------------------------------------------

    def _raise_epochs(self) -> None:
        known = {name for (name,) in self._execute(select(schema.namespaces.c.name))}
        for name in FOREVER_NAMESPACES:
            if name not in known:
                new = NamespaceInfo(name=name, description="", create_ms=_wall_ms(), epoch=0)
                self._execute(insert(schema.namespaces).values(new._asdict()))
        self._execute(update(schema.namespaces).values(epoch=schema.namespaces.c.epoch + 1))

    def _restore(self) -> Restored:
        ((last_key,),) = self._execute(select(func.max(tasks.c.key)))
        open_tasks, parameters = compile_sql(select(tasks).where(is_open()).order_by(tasks.c.key))
        unexpired = schema.join_tokens.c.expire_ms >= _wall_ms()
        return Restored(
            namespaces=[NamespaceInfo._make(row) for row in self._execute(_all(schema.namespaces))],
            agents=[rows.agent_from_row(row) for row in self._execute(_all(schema.agents))],
            tasks=[rows.task_from_row(row) for row in self._writer.execute(open_tasks, parameters)],
            next_key=(last_key or 0) + 1,
            drains=[
                rows.drain_from_row(row)
                for row in self._execute(_all(schema.drains).where(schema.drains.c.lift_ms == 0))
            ],
            join_tokens=[
                rows.join_token_from_row(row)
                for row in self._execute(_all(schema.join_tokens).where(unexpired))
            ],
            identities=[rows.identity_from_row(row) for row in self._execute(_all(schema.identities))],
            # All that were not swept: the clock may be wrong at a start.
            revocations=[RevocationRecord._make(row) for row in self._execute(_all(schema.revocations))],
            signing_keys=[SigningKeyRecord._make(row) for row in self._execute(_all(schema.signing_keys))],
            audit_heads=dict(self._audit_heads()),
            token_watermark_ms=self._execute(select(func.max(schema.token_watermarks.c.watermark_ms)))[0][0]
            or 0,
        )

    def _audit_heads(self) -> Iterator[tuple[str, tuple[int, bytes]]]:
        """Step from chain to chain by the index, whatever the length of each."""
        head = select(schema.audit.c.namespace, schema.audit.c.sequence, schema.audit.c.hash)
        head = head.order_by(schema.audit.c.namespace.desc(), schema.audit.c.sequence.desc()).limit(1)
        found = self._execute(head)
        while found:
            ((namespace, sequence, hash_),) = found
            yield namespace, (sequence, hash_)
            found = self._execute(head.where(schema.audit.c.namespace < namespace))

    # ---- sweep ---------------------------------------------------------------------------------------------------

    def _sweep_records(self, ended_before_ms: int) -> None:
        self._execute(delete(schema.join_tokens).where(schema.join_tokens.c.expire_ms < ended_before_ms))
        self._execute(delete(schema.revocations).where(schema.revocations.c.keep_until_ms < ended_before_ms))
        lifted = schema.drains.c.lift_ms > 0, schema.drains.c.lift_ms < ended_before_ms
        self._execute(delete(schema.drains).where(*lifted))

    def _sweep_tasks(self, ended_before_ms: int, limit: int) -> int:
        # The newest task stays, whatever its age: its key says where the next start goes on counting.
        last_key = select(func.max(tasks.c.key)).scalar_subquery()
        due = has_ended(), tasks.c.end_ms < ended_before_ms, tasks.c.key < last_key
        keys = [
            key
            for (key,) in self._execute(select(tasks.c.key).where(*due).order_by(tasks.c.end_ms).limit(limit))
        ]
        for column in (
            schema.payloads.c.task_key,
            schema.outputs.c.task_key,
            schema.attempts.c.task_key,
            tasks.c.key,
        ):
            self._execute(delete(column.table).where(column.in_(keys)))
        return len(keys)


def _all(table: Any) -> Any:
    return select(table).order_by(*table.primary_key.columns)


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
