"""A disk of a few MiB: a tmpfs in a mount namespace of its own, which ends with the process that holds it.

Root is not needed where the kernel lets users make namespaces; where it does not, this fails and says so.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self


class SmallDisk:
    """Mounted at `at` for those who are started by `inside`. Use it as a context manager."""

    def __init__(self, at: Path, size_mib: int) -> None:
        self._at = at
        self._size_mib = size_mib

    def __enter__(self) -> Self:
        self._at.mkdir(mode=0o700)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        script = f'mount -t tmpfs -o size={self._size_mib}m,mode=700 tmpfs "$1" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *user, "sh", "-c", script, "sh", str(self._at)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate()

    @property
    def inside(self) -> list[str]:
        """What to put before a command that shall see the disk."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", *user, "--"]

    def fill(self, leave_kib: int = 0) -> None:
        """Take all space but this much."""
        free = self._free_kib() - leave_kib
        self._run(f"dd if=/dev/zero of={self._at}/ballast bs=1k count={free} status=none || true")

    def free(self) -> None:
        """Give it back."""
        self._run(f"rm -f {self._at}/ballast")

    def read_only(self) -> None:
        """Let nobody write any more, as a kernel does whose disk shows errors."""
        self._run(f"mount -o remount,ro {self._at}")

    def _free_kib(self) -> int:
        return int(self._run(f"df --output=avail -k {self._at} | tail -1"))

    def _run(self, script: str) -> str:
        return subprocess.run(
            [*self.inside, "sh", "-c", script], check=True, capture_output=True, text=True
        ).stdout
