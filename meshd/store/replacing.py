"""Puts a prepared database in the place of a data directory's own.

Invariant: at every instant the directory holds a whole database under its name, the old one or the new one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from meshd.ports.store import StorageError
from meshd.store.copying import sync_directory
from meshd.store.opening import DATABASE, explained, fold_log
from meshd.store.ownership import give_to_owner

STAGING = "restoring"


@contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """A directory in which a database is prepared; what an earlier try left there is thrown away. Raises StorageError."""
    prepared = directory / STAGING
    with explained(prepared):
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.mkdir(mode=0o700)
    try:
        yield prepared
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def make_whole(database: Path) -> None:
    """See that a database that nobody writes to lacks nothing without its log. Raises StorageError."""
    with explained(database), closing(sqlite3.connect(database, isolation_level=None)) as connection:
        if not fold_log(connection):
            raise StorageError(
                f"another program reads {database}, so that its log is needed; end that program, then restore again"
            )


def put_in_place(prepared: Path, directory: Path) -> Path | None:
    """Make the closed database of ``prepared`` the one of ``directory``; returns where the old one is kept.

    The old one must be whole, or unreadable. Raises StorageError.
    """
    database, new = directory / DATABASE, prepared / DATABASE
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = directory / f"{database.stem}-before-restore-{stamp}.db"
    make_whole(new)
    with explained(database):
        give_to_owner(new, directory)
        _sync(new)
        # SQLite would play an old log into the new database. Nothing is lost when all ends between the two renames: the
        # old database does not need it, or is gone or cannot be read anyway.
        for suffix in ("-wal", "-shm"):
            log = directory / (DATABASE + suffix)
            if log.exists():
                log.rename(directory / (aside.name + suffix))
        replaces = database.exists()
        if replaces:
            for kept in directory.glob(f"{database.stem}-before-restore-*.db"):
                # Of a try that was killed right here: a second name of a database that went on living.
                if kept.samefile(database):
                    kept.unlink()
            aside.hardlink_to(database)
        new.replace(database)
        sync_directory(directory)
    return aside if replaces else None


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
