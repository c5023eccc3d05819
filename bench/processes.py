"""The processes of a benchmark: each on its core, ended by its id, its processor time read from /proc.

The server has the first core to itself, the load the last. Each meshd is fresh, its database on the disk of this
checkout: a folder in memory would make the sync to disk free.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUILD = Path("build/bench")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 30
"""How long a server may take to come up."""


def start(core: int, *command: str, **options: Any) -> subprocess.Popen[str]:
    """Start a Python module on one core."""
    process = subprocess.Popen([sys.executable, "-m", *command], text=True, stdout=subprocess.PIPE, **options)
    os.sched_setaffinity(process.pid, {core})
    return process


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the next line a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """End a process by its id."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def meshd() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a fresh meshd; yields it and the address of its socket."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, tempfile.TemporaryDirectory() as short:
        log = Path(folder) / "log"
        quiet = ("--listen", "", "--http-listen", "")
        with log.open("w") as errors:
            process = start(
                SERVER_CORE,
                *("meshd", "--data-dir", f"{folder}/data", "--socket", f"{short}/s", *quiet),
                stderr=errors,
            )
        try:
            deadline = time.monotonic() + START_S
            while "meshd ready" not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"meshd did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield process, f"unix:{short}/s"
        finally:
            end(process)
