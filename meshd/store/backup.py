"""Backups: a whole copy of the database beside a running meshd, and what a copy holds.

Rule: the database is only read. A backup holds no private key: those are files of their own.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Executable, FromClause, func, select

from meshd.domain.records import RevocationRecord
from meshd.ports.store import Predecessor, StorageError
from meshd.store import rows, schema
from meshd.store.compiled import Row, compile_sql
from meshd.store.copying import copy_database
from meshd.store.opening import DATABASE, damaged, explained, open_reader, revision_of


class Contents(NamedTuple):
    """What a copy holds."""

    tasks: int
    open_tasks: int
    agents: int
    namespaces: int
    newest_ms: int
    """Latest time of an audit record in it; 0 without one."""
    size_bytes: int


def back_up(directory: Path, file: Path) -> Contents:
    """Copy the database of a data directory; whether a meshd runs on it does not matter. Raises StorageError."""
    database = directory.absolute() / DATABASE
    with explained(database):
        if not database.exists():
            raise StorageError(
                f"{directory} holds no database of a mesh; name the data directory (--data-dir)"
            )
    with _writing(file):
        if file.exists():
            raise StorageError(f"{file} exists already and is not overwritten; name another file")
    held: list[Contents] = []

    def check(copy: Path) -> None:
        try:
            held.append(examine(copy))
        except StorageError as error:
            raise damaged(database, StorageError("its copy does not pass the check")) from error

    with explained(database), closing(open_reader(database)) as reader:
        revision_of(reader, database)
        with _writing(file):
            copy_database(reader, file, check)
    return held[0]


def examine(file: Path) -> Contents:
    """Check a copy from end to end and tell what it holds. Raises StorageError."""
    with _reading(file) as reader:
        ((verdict,), *_) = reader.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise StorageError(f"{file} is damaged ({verdict}); use another backup")
        if revision_of(reader, file) is None:
            raise StorageError(f"{file} is empty; use another backup")
        open_tasks = select(schema.tasks.c.key).where(schema.is_open()).subquery()
        return Contents(
            tasks=_count(reader, schema.tasks),
            open_tasks=_count(reader, open_tasks),
            agents=_count(reader, schema.agents),
            namespaces=_count(reader, schema.namespaces),
            newest_ms=_newest_ms(reader),
            size_bytes=file.stat().st_size,
        )


def copy_backup(file: Path, database: Path) -> bytes:
    """Copy a backup to where it is made the present; returns its SHA-256. Raises StorageError."""
    with _reading(file) as reader, _writing(database):
        copy_database(reader, database)
    with explained(file), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def read_predecessor(database: Path) -> Predecessor:
    """Return what the database that a backup replaces still tells. Raises StorageError.

    It may be of any revision in which these tables are as they are now. No meshd may run on it.
    """
    with explained(database), closing(sqlite3.connect(database, isolation_level=None)) as connection:
        try:
            identities = [rows.identity_from_row(row) for row in _rows(connection, select(schema.identities))]
            revocations = _rows(connection, select(schema.revocations))
            epochs = _rows(connection, select(schema.namespaces.c.name, schema.namespaces.c.epoch))
            newest_ms = _newest_ms(connection)
        except (ValueError, TypeError) as error:
            raise StorageError(f"the database {database} makes no sense: {error}") from error
    return Predecessor(
        identities, [RevocationRecord._make(row) for row in revocations], dict(epochs), newest_ms
    )


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that nobody writes to, without leaving anything beside it. Raises StorageError."""
    try:
        if not file.is_file():
            raise StorageError(f"there is no file {file}; name a backup made by `meshd backup`")
        # Only a database that was copied by hand, from under its writer, has a log beside it.
        mode = "mode=ro" if file.with_name(file.name + "-wal").exists() else "mode=ro&immutable=1"
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
        ) as reader:
            yield reader
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{file} cannot be read as a backup: {error}; use another one") from error


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Blame the file that is written, not the one that is read."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"{file} cannot be written: {getattr(error, 'strerror', None) or error}; name another place with enough room"
        ) from error


def _newest_ms(connection: sqlite3.Connection) -> int:
    # Not of the last record: the clock may have been set back before that.
    ((newest_ms,),) = _rows(connection, select(func.max(schema.audit.c.time_ms)))
    return int(newest_ms or 0)


def _count(connection: sqlite3.Connection, part: FromClause) -> int:
    ((count,),) = _rows(connection, select(func.count()).select_from(part))
    return int(count)


def _rows(connection: sqlite3.Connection, statement: Executable) -> list[Row]:
    return connection.execute(*compile_sql(statement)).fetchall()
