"""Runs an agent's process: starts it again when it crashes, stops it when asked, and says how it ended.

Invariant: while this runs there is at most one child, in a process group of its own, and none is left behind
when it returns: a signal reaches the whole group, and what does not stop is killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from meshctl.output import note
from meshctl.problems import ExitCode, usage

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
# A process that ran this long was well: its next crash starts with the first backoff again.
STEADY_S = 10.0
# More than an agent needs to hand its work back.
STOP_GRACE_S = 30.0

# Signals this close together are one request.
SAME_SIGNAL_S = 1.0

_ENDED = 0  # in the queue of signals: the process ended; no signal has this number
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(command: Sequence[str], environment: Mapping[str, str]) -> ExitCode:
    """Runs a command with this environment until it ends well or a signal asks for the end.

    Returns DONE when it ended well or as asked, TASK_FAILED when it had to be killed or failed while
    stopping.
    """
    events: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, frame: FrameType | None) -> None:
        events.put(number)

    previous = {number: signal.signal(number, on_signal) for number in _FORWARDED}
    try:
        return _supervise(command, environment, events)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _supervise(
    command: Sequence[str], environment: Mapping[str, str], events: queue.SimpleQueue[int]
) -> ExitCode:
    backoff_s = FIRST_BACKOFF_S
    while True:
        process = _start(command, environment)
        started_s = time.monotonic()
        note(f"{command[0]} runs as process {process.pid}; Ctrl-C stops it.")
        asked = _wait(process, events)
        if asked is not None:
            return _stop(process, asked, events)
        ending = describe(process.returncode)
        _signal_group(process, signal.SIGKILL)  # what the process itself started and left behind
        if process.returncode == 0:
            note(f"{command[0]} {ending}.")
            return ExitCode.DONE
        if time.monotonic() - started_s >= STEADY_S:
            backoff_s = FIRST_BACKOFF_S
        note(f"{command[0]} {ending}; starting it again in {backoff_s:g} s.")
        try:
            events.get(timeout=backoff_s)
        except queue.Empty:
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            continue
        note("Stopped while waiting to start it again.")
        return ExitCode.TASK_FAILED


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=dict(environment), process_group=0)  # noqa: S603 - it is what was asked
    except OSError as error:
        raise usage(f"cannot run {command[0]!r}: {error.strerror}", "check its name and its rights") from None


def _wait(process: subprocess.Popen[bytes], events: queue.SimpleQueue[int]) -> int | None:
    """Returns the signal that asks for the end, or None when the process ended by itself."""

    def report_end() -> None:
        process.wait()
        events.put(_ENDED)

    threading.Thread(target=report_end, name="wait-for-process", daemon=True).start()
    number = events.get()
    return None if number == _ENDED else number


def _stop(process: subprocess.Popen[bytes], number: int, events: queue.SimpleQueue[int]) -> ExitCode:
    _signal_group(process, number)
    note(f"Passed {signal.Signals(number).name} on; waiting up to {STOP_GRACE_S:g} s. Again: kill it.")
    asked_s = time.monotonic()
    with contextlib.suppress(queue.Empty):
        # Wakes up when the process ends, or with a second signal. Those who signal a whole process group often
        # signal its leader as well: what comes at once is still the first.
        while events.get(timeout=STOP_GRACE_S) != _ENDED and time.monotonic() - asked_s < SAME_SIGNAL_S:
            pass
    killed = process.poll() is None
    _signal_group(process, signal.SIGKILL)
    process.wait()
    if killed:
        note("It had to be killed.")
        return ExitCode.TASK_FAILED
    note(f"It {describe(process.returncode)}.")
    return ExitCode.DONE if process.returncode in (0, -number, 128 + number) else ExitCode.TASK_FAILED


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def describe(returncode: int) -> str:
    """Returns how a process ended, in words."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with code {returncode}"
