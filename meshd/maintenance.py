"""The commands ``meshd backup`` and ``meshd restore``: composed here like the daemon in ``daemon.py``.

Rule: a backup only reads; a restore works on a copy, and what it prepared takes the old database's place in one step.
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from meshd.config import StartError
from meshd.domain.access import LOCAL_OPERATOR
from meshd.domain.values import Now
from meshd.engine.recovery import recover
from meshd.ports.store import Predecessor, StorageError
from meshd.security.keys import KEY_FILE, KEY_FOLDER
from meshd.store.backup import Contents, back_up, copy_backup, examine, read_predecessor
from meshd.store.lock import DirectoryLock
from meshd.store.opening import DATABASE
from meshd.store.replacing import make_whole, put_in_place, staging
from meshd.store.sqlite import SqliteStore

CLOCK_SKEW_MS: Final = 30_000
"""How far a clock may be behind the one that wrote the backup: as far as tokens from the future are accepted."""


def backup(data_dir: str, file: str) -> str:
    """Write a backup and return what to tell about it. Raises StartError."""
    start = time.monotonic()
    try:
        contents = back_up(Path(data_dir), Path(file))
    except StorageError as error:
        raise StartError.because_of(error) from None
    return f"backup {file}: {_told(contents)}; made in {time.monotonic() - start:.1f} s"


def restore(data_dir: str, file: str, *, replace: bool) -> str:
    """Make a backup the database of a data directory and return what to tell about it. Raises StartError."""
    try:
        contents = examine(Path(file))
        lock = DirectoryLock(Path(data_dir))
        try:
            return _restore(Path(data_dir).absolute(), Path(file), contents, replace=replace)
        finally:
            lock.release()
    except StorageError as error:
        raise StartError.because_of(error) from None


def _restore(directory: Path, file: Path, contents: Contents, *, replace: bool) -> str:
    database = directory / DATABASE
    predecessor = Predecessor([], [], {}, 0)
    lines = [f"restored {file}: {_told(contents)}"]
    if database.exists():
        if not replace:
            raise StartError(
                f"{directory} holds a database already",
                "name another data directory (--data-dir), or give --replace: the old database is kept aside",
            )
        try:
            predecessor = read_predecessor(database)
        except StorageError as error:
            lines.append(f"what was revoked since the backup is not known: {error}")
        else:
            make_whole(database)
    else:
        lines.append("what was revoked since the backup is not known here: revoke it again")
    now_ms = time.time_ns() // 1_000_000
    newest_ms = max(contents.newest_ms, predecessor.newest_ms)
    if newest_ms > now_ms + CLOCK_SKEW_MS:
        key = directory / KEY_FOLDER / KEY_FILE
        if key.exists():
            raise StartError(
                f"the clock of this host is {(newest_ms - now_ms) // 1_000} s behind what the mesh recorded",
                "set the clock, then restore again: tokens are told apart by their time; if it is right and was wrong"
                f" before, remove {key} first: with a new key, tokens of before are refused whatever their time",
            )
        newest_ms = 0
        lines.append(f"its times are ahead of this host's clock: do not put an old signing key back to {key}")
    with staging(directory) as prepared:
        digest = copy_backup(file, prepared / DATABASE)
        with closing(SqliteStore(prepared)) as store:
            writes = recover(
                store.load(), predecessor, LOCAL_OPERATOR.subject, digest, Now(time.monotonic(), now_ms)
            )
            store.commit_restored(writes, max(now_ms, newest_ms))
        aside = put_in_place(prepared, directory)
    if aside is not None:
        lines.append(f"the old database is kept as {aside}")
    lines.append("agents return by their own keys; every token and join token of before is refused")
    lines.append("next: start meshd")
    return "\n".join(lines)


def _told(contents: Contents) -> str:
    newest = (
        datetime.fromtimestamp(contents.newest_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if contents.newest_ms
        else "none"
    )
    return (
        f"{contents.tasks} tasks ({contents.open_tasks} open), {contents.agents} agents in {contents.namespaces}"
        f" namespaces, {contents.size_bytes / 1_048_576:.1f} MiB, newest audit record {newest}"
    )
