"""The files of a data directory: process lock first, then the database, brought to the newest schema.

Invariant: a database is copied aside before a migration touches it, and a migration is one transaction: a kill at any
instant leaves a database that the old or the new meshd opens.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from meshd.ports.store import StorageError
from meshd.store0.schema import REVISION

LOCK_NAME = "lock"
DATABASE_NAME = "mesh.db"
CHECKPOINT_PAGES = 2_000


class DatabaseFiles:
    """An open database and the lock on its directory."""

    def __init__(self, path: Path, writer: sqlite3.Connection, lock_fd: int) -> None:
        self.path = path
        self.writer = writer
        self._lock_fd = lock_fd

    def new_reader(self) -> sqlite3.Connection:
        """Return another connection, query-only, usable from any one thread at a time."""
        reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        reader.execute("PRAGMA query_only = ON")
        # Only the writer checkpoints.
        reader.execute("PRAGMA wal_autocheckpoint = 0")
        return reader

    def close(self, *, checkpoint: bool) -> None:
        """Close the database and release the lock."""
        if checkpoint:
            self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.writer.close()
        os.close(self._lock_fd)


def open_database(data_dir: Path) -> DatabaseFiles:
    """Lock the directory, open its database and migrate it. Raises StorageError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(
            f"the data directory {data_dir} cannot be made ({error.strerror}); name another by --data-dir"
        ) from error
    lock_fd = _lock(data_dir)
    path = data_dir / DATABASE_NAME
    try:
        writer = _connect(path)
        _migrate(path, writer)
    except sqlite3.Error as error:
        os.close(lock_fd)
        raise StorageError(
            f"the database {path} cannot be opened ({error}); keep a copy of it and restore the newest backup"
        ) from error
    except BaseException:
        os.close(lock_fd)
        raise
    return DatabaseFiles(path, writer, lock_fd)


def _lock(data_dir: Path) -> int:
    path = data_dir / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"the data directory {data_dir} cannot be written ({error.strerror}); name another by --data-dir"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StorageError(
            f"another meshd (process {holder}) uses {data_dir}; stop it, or name another directory by --data-dir"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time uses it: the starting one, then the writer thread.
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("PRAGMA synchronous = FULL")
    writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    writer.execute("PRAGMA cache_size = -65536")
    path.chmod(0o600)
    return writer


def _migrate(path: Path, writer: sqlite3.Connection) -> None:
    found = _revision(writer)
    if found == REVISION:
        return
    from meshd.store0.migrating import is_known, upgrade  # Alembic takes its time to import; most starts need none

    if found is not None:
        if not is_known(found):
            raise StorageError(
                f"the database {path} has schema {found}, which is newer than this meshd ({REVISION}); "
                "start the newer meshd, or restore a backup made before the upgrade"
            )
        _copy_aside(path, writer, found)
    upgrade(writer)


def _revision(writer: sqlite3.Connection) -> str | None:
    tables = {row[0] for row in writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables:
        if tables:
            raise StorageError("the database was not made by meshd; name another directory by --data-dir")
        return None
    row = writer.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _copy_aside(path: Path, writer: sqlite3.Connection, revision: str) -> None:
    aside = path.with_name(f"{path.name}.before-{REVISION}-from-{revision}")
    partial = aside.with_name(f"{aside.name}.partial")
    copy = sqlite3.connect(partial)
    try:
        writer.backup(copy)
    finally:
        copy.close()
    partial.replace(aside)
