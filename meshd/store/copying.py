"""Whole copies of a database, made beside whoever writes to it: for backups, restores and upgrades.

Rule: the source is only read, in one read transaction; the copy is one file without a log beside it, readable by its
owner only. It gets its name when it is complete and on the disk: a file of that name is never half a copy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path


def copy_database(
    source: sqlite3.Connection, copy: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write a durable copy, replacing one of that name. ``check`` sees it before it gets its name.

    Raises sqlite3.Error or OSError, and what ``check`` raises.
    """
    unfinished = copy.with_name(copy.name + ".part")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with closing(sqlite3.connect(unfinished)) as target:
            # In one step, so in one read transaction: commits of others meanwhile are not in it.
            source.backup(target)
            # The copy has the mode of its source; without a log it is whole by itself.
            target.execute("PRAGMA journal_mode=DELETE")
        if check is not None:
            check(unfinished)
        os.fsync(handle)
        unfinished.rename(copy)
        sync_directory(copy.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
