"""The lock on a data directory: one meshd at a time.

Rule: taken before the database is looked at. The kernel drops it when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from meshd.ports.store import StorageError


class DirectoryLock:
    """An exclusive lock held by this process."""

    def __init__(self, directory: Path) -> None:
        """Take it. Raises StorageError when another process has it."""
        self._file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StorageError(
                f"the data directory {directory} is in use by meshd, pid {holder}; stop that process, or give this one"
                " a data directory of its own (--data-dir)"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Give it back; a second call changes nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
