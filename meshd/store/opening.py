"""Opens the database: makes a new one, brings an old one up to date, and says clearly why it cannot.

Invariant: on one data directory there is one connection that writes or checkpoints (SQLite before 3.51.3 can corrupt
its log otherwise); readers are read-only. Alembic is imported only when there is something to migrate.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.schema import CreateIndex, CreateTable

from meshd.ports.store import StorageBrokenError, StorageError, StorageFullError
from meshd.store import schema
from meshd.store.compiled import DIALECT
from meshd.store.copying import copy_database, sync_directory
from meshd.store.ownership import barred

DATABASE = "mesh.db"
OLDEST_SQLITE = (3, 35, 0)
# The second: no space to enlarge the index of the log, which happens before a commit counts.
FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PERMISSION = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
LOG_LIMIT_BYTES = 64 * 1024 * 1024
"""The log is longer only while one large commit is in it, somebody reads an old state, or it cannot be folded."""

WRITER_PRAGMAS = (
    # FULL syncs the log at every commit; less loses acknowledged work with the power.
    "PRAGMA synchronous=FULL",
    # Pages of 4 KiB: the log is folded into the database at every 16 MiB, and shrunk when a reader held it up.
    "PRAGMA wal_autocheckpoint=4000",
    f"PRAGMA journal_size_limit={LOG_LIMIT_BYTES}",
    "PRAGMA cache_size=-65536",
    "PRAGMA foreign_keys=OFF",
    "PRAGMA busy_timeout=5000",
)
READER_PRAGMAS = ("PRAGMA query_only=ON", "PRAGMA cache_size=-16384", "PRAGMA busy_timeout=5000")


def open_writer(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """Return the one writing connection, to a database of the current revision, and its revision before, None if it is new.

    Raises StorageError.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(
            f"SQLite {sqlite3.sqlite_version} is too old; run meshd on a Python with SQLite 3.35 or newer"
        )
    with explained(path):
        _make_file(path)
        connection = _connect_writer(path)
        try:
            revision = revision_of(connection, path)
            if revision is None:
                _create(connection)
            elif revision != schema.REVISIONS[-1]:
                connection.close()
                _upgrade(path, revision)
                connection = _connect_writer(path)
        except BaseException:
            connection.close()
            raise
    return connection, revision


def open_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    for pragma in READER_PRAGMAS:
        connection.execute(pragma)
    return connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the driver and the system raise into StorageErrors that name the file and the next step."""
    try:
        yield
    except sqlite3.IntegrityError:
        # The rows are at fault, not the file: whoever wrote them says so.
        raise
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", 0)
        # The lower byte is the kind of error, the rest its cause.
        if code & 0xFF in DAMAGE:
            raise damaged(path, error) from error
        logs = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
        if _speaks_of_permission(error) and (whose := barred(path, *logs, path.parent)):
            raise StorageError(f"the database {path} cannot be used: {whose}") from error
        kind = StorageBrokenError if code & 0xFF == sqlite3.SQLITE_IOERR else StorageError
        if code in FULL or getattr(error, "errno", 0) == errno.ENOSPC:
            kind = StorageFullError
        raise kind(
            f"the database {path} cannot be used: {error}; see to its disk and permissions, then start meshd again"
        ) from error


def fold_log(connection: sqlite3.Connection) -> bool:
    """Fold the log into the database, as commits and closes do too; but those tell nobody when that fails.

    False: somebody reads an older state, which keeps a part in the log. Raises sqlite3.Error.
    """
    busy, logged, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return not busy and logged == folded


def _speaks_of_permission(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in PERMISSION


def damaged(path: Path, error: Exception) -> StorageBrokenError:
    """Return the error for a database whose content makes no sense."""
    return StorageBrokenError(
        f"the database {path} is damaged: {error}; keep a copy of it and restore the newest backup"
    )


def _make_file(path: Path) -> None:
    """Make an empty database that only its owner may read, and make its name durable."""
    if path.exists():
        return
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for directory in (path.parent, path.parent.parent):
        sync_directory(directory)


def _connect_writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StorageError(
                f"the file system of {path} cannot hold a write-ahead log; put the data directory on a local disk"
            )
        for pragma in WRITER_PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def revision_of(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the revision of a database this code knows, None for an empty one. Raises StorageError."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise StorageError(f"{path} was not made by meshd; name a data directory or a backup of meshd's own")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = str(row[0]) if row else "none"
    if revision not in schema.REVISIONS:
        raise StorageError(
            f"the database {path} has revision {revision}, this meshd knows up to {schema.REVISIONS[-1]}; run the newer"
            " meshd that wrote it, or restore the copy it made before the upgrade"
        )
    return revision


def _create(connection: sqlite3.Connection) -> None:
    """Make the current schema in one transaction, as the migrations would."""
    connection.execute("BEGIN IMMEDIATE")
    for table in schema.metadata.sorted_tables:
        connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            connection.execute(str(CreateIndex(index).compile(dialect=DIALECT)))
    connection.execute(
        "CREATE TABLE alembic_version"
        " (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.execute("INSERT INTO alembic_version VALUES (?)", (schema.REVISIONS[-1],))
    connection.execute("COMMIT")


def copy_of(path: Path, revision: str) -> Path:
    """Where a database of this revision is copied to before it is upgraded."""
    return path.with_name(f"{path.stem}-{revision}.db")


def _upgrade(path: Path, revision: str) -> None:
    from meshd.store.migrate import upgrade  # noqa: PLC0415  (brings Alembic: half a second)

    with closing(open_reader(path)) as reader:
        copy_database(reader, copy_of(path, revision))
    upgrade(path)
