"""The lock on a data directory: one meshd at a time.

Rule: taken before the database is looked at. The kernel drops it when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from meshd.ports.store import StorageError
from meshd.store.ownership import barred, give_to_owner


class DirectoryLock:
    """An exclusive lock held by this process."""

    def __init__(self, directory: Path) -> None:
        """Take it, making the directory if need be. Raises StorageError."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            give_to_owner(directory / "lock", directory)
        except OSError as error:
            if whose := barred(directory / "lock", directory):
                raise StorageError(f"the data directory {directory} cannot be used: {whose}") from error
            raise StorageError(
                f"the data directory {directory} cannot be made or written ({error.strerror}); name another (--data-dir)"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StorageError(
                f"another meshd (pid {holder}) uses {directory}; stop it, or name another data directory (--data-dir)"
            ) from None
        except OSError as error:
            os.close(self._file)
            raise StorageError(
                f"the data directory {directory} cannot be locked and written ({error.strerror}); free space on its disk,"
                " or name another on a local disk (--data-dir)"
            ) from error

    def release(self) -> None:
        """Give it back; a second call changes nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
