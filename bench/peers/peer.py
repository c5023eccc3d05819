"""What a peer is to the benchmark: started, given no-ops, awaited, stopped.

Rule: a peer is set up as its own documentation advises for throughput with at-least-once delivery, and is never
handicapped: where a choice is open, the faster one is taken.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.processes import BUILD, CORES, LOAD_CORE, SERVER_CORE, START_S, end

PAYLOAD = b"x" * 200
"""As large as a task's of ours."""


@dataclass(frozen=True)
class Setting:
    """How a peer is run this time."""

    pinned: bool
    """Server on the first core, workers and submitter on the last, as ours; else all on every core."""
    batched: bool
    """Publish as many at a time as the peer can; else each by itself, with many on their way."""
    synced: bool
    """Sync to disk before acknowledging, as ours does; else as the peer does by default."""

    @property
    def server_cores(self) -> Sequence[int]:
        return (SERVER_CORE,) if self.pinned else CORES

    @property
    def load_cores(self) -> Sequence[int]:
        return (LOAD_CORE,) if self.pinned else CORES


class Peer(Protocol):
    """One system and its submitter."""

    def start(self) -> None:
        """Start servers and workers and connect; raises RuntimeError when one does not come up."""

    def submit(self, count: int) -> None:
        """Submit so many no-ops."""

    def wait(self) -> None:
        """Return when the submitter knows the results of all that was submitted since the last wait."""

    def stop(self) -> None:
        """End all that was started."""


class Processes:
    """A folder on the disk of the checkout, and the processes that live in it."""

    def __init__(self) -> None:
        BUILD.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="peer-", dir=BUILD)).resolve()
        self._started: list[subprocess.Popen[str]] = []

    def start(self, cores: Sequence[int], *command: str, **environment: str) -> None:
        """Start a program on these cores; what it says goes to a log in the folder."""
        with (self.folder / f"{len(self._started)}.log").open("w") as log:
            process = subprocess.Popen(
                ("taskset", "--cpu-list", ",".join(map(str, cores)), *command),
                text=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )
        self._started.append(process)

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until the last started program is ready."""
        deadline = time.monotonic() + START_S
        while not ready():
            if self._started[-1].poll() is not None or time.monotonic() > deadline:
                said = self.log().replace(f"{self.folder}/", "").split("\n")
                raise RuntimeError("; ".join(["it did not come up", *filter(None, said[-3:])]))
            time.sleep(0.02)

    def log(self) -> str:
        """Return what the last started program said."""
        return (self.folder / f"{len(self._started) - 1}.log").read_text()

    def stop(self) -> None:
        """End them, the last first, and remove the folder."""
        while self._started:
            end(self._started.pop())
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Return whether somebody listens there."""
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


def python_module(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *words)
