"""Disk space that meshd holds for itself: a file, given back in pieces when a commit finds the disk full.

Rule: it is made only where there is more space than new work needs, so that holding it never makes space low; what was
given back is taken again when there is that much space again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

FILE: Final = "reserve"
PIECE_BYTES: Final = 4 * 1024 * 1024


class Reserve:
    """The file ``reserve`` in a data directory. Used by one thread at a time."""

    def __init__(self, directory: Path, size_bytes: int, beyond_bytes: int) -> None:
        """Hold up to ``size_bytes``, where as much and ``beyond_bytes`` more are free."""
        self._path = directory / FILE
        self._size_bytes = size_bytes
        self._beyond_bytes = beyond_bytes

    def take(self) -> None:
        """Make it whole again if there is room; a disk on which that fails has none."""
        try:
            missing_bytes = self._size_bytes - self._held_bytes()
            free_bytes = shutil.disk_usage(self._path.parent).free
            if missing_bytes <= 0 or free_bytes < missing_bytes + self._beyond_bytes:
                return
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(file, 0, self._size_bytes)
            finally:
                os.close(file)
        except OSError:
            return

    def give(self) -> bool:
        """Give a piece of it back to the disk; return False when there is nothing left to give."""
        try:
            held_bytes = self._held_bytes()
            if not held_bytes:
                return False
            os.truncate(self._path, max(0, held_bytes - PIECE_BYTES))
        except OSError:
            return False
        return True

    def _held_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
