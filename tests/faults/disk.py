"""A disk for meshd that records what is written and fails on command: the Python side of disk_shim.c.

Rule: production code knows nothing of it. meshd runs as `tests.faults.meshd_with_points`, with the shim preloaded; a
point is armed by a file of its name, so that it can be armed and disarmed while meshd runs.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

SHIM = Path(__file__).with_name("disk_shim.c")
_HEAD = struct.Struct("<cHQI")


class Point(StrEnum):
    """Where meshd can be killed: around applying, appending, syncing and releasing one batch."""

    BEFORE_APPLY = "kill-before-apply"
    AFTER_APPLY = "kill-after-apply"
    BEFORE_APPEND = "kill-before-append"
    AFTER_APPEND = "kill-after-append"
    BEFORE_FSYNC = "kill-before-fsync"
    AFTER_FSYNC = "kill-after-fsync"
    BEFORE_RELEASE = "kill-before-release"
    AFTER_RELEASE = "kill-after-release"


#: Here a batch is being written, or is written and nobody was told.
IN_FLIGHT = frozenset({Point.AFTER_APPEND, Point.BEFORE_FSYNC, Point.AFTER_FSYNC, Point.BEFORE_RELEASE})
FAIL_FSYNC = "fail-fsync"
HANG_FSYNC = "hang-fsync"


@dataclass(frozen=True, slots=True)
class Change:
    """One record. `kind` is C create, W write, T truncate, S sync, U unlink; M is a mark of a client's."""

    kind: str
    path: str
    offset: int
    data: bytes


class Disk:
    """The shim, built into `folder`, for the files below `root`."""

    def __init__(self, folder: Path, root: Path, *, records: bool = False) -> None:
        self._library = folder / "disk_shim.so"
        self._control = folder / "control"
        self._control.mkdir()
        self._record = folder / "record"
        #: Of the meshd that shall see it.
        self.environment: dict[str, Any] = {
            "LD_PRELOAD": str(self._library),
            "DISK_ROOT": str(root),
            "DISK_CONTROL": str(self._control),
            **({"DISK_RECORD": str(self._record)} if records else {}),
        }
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SHIM)]
        subprocess.run([*command, "-ldl"], check=True)

    def arm(self, point: str) -> None:
        """From now on the point fails, hangs or kills."""
        (self._control / point).touch()

    def disarm(self, point: str) -> None:
        """The point does nothing any more; what hangs goes on."""
        (self._control / point).unlink(missing_ok=True)

    @contextmanager
    def armed(self, point: str) -> Iterator[None]:
        """Armed within the block."""
        self.arm(point)
        try:
            yield
        finally:
            self.disarm(point)

    def mark(self, number: int) -> None:
        """Note in the record that a client heard something: all that stands before happened before."""
        descriptor = os.open(self._record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, _HEAD.pack(b"M", 0, number, 0))
        finally:
            os.close(descriptor)

    def changes(self) -> Iterator[Change]:
        """What was recorded, in order."""
        record = self._record.read_bytes()
        at = 0
        while at < len(record):
            kind, path_length, offset, size = _HEAD.unpack_from(record, at)
            at += _HEAD.size
            path = record[at : at + path_length].decode()
            at += path_length
            yield Change(kind.decode(), path, offset, record[at : at + size])
            at += size
