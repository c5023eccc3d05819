"""Shows on standard error how a task is getting on: one live line on a terminal, else a line per change."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from agentmesh.v1 import scheduler_service_pb2, task_pb2
from meshctl import output, rows, words
from meshctl.safe_text import printable

if TYPE_CHECKING:
    from rich.status import Status

_PROGRESS_PAUSE_S = 1.0
_HELD = (task_pb2.TASK_STATE_ASSIGNED, task_pb2.TASK_STATE_RUNNING)


class Display(Protocol):
    """Where progress goes."""

    def state(self, text: str) -> None:
        """Shows what the task is doing now."""

    def progress(self, text: str) -> None:
        """Shows how far it is; may be left out when these come often."""

    def say(self, text: str) -> None:
        """Writes lines that stay."""

    def close(self) -> None:
        """Ends the display; nothing is shown after it."""


class Lines:
    """Plain lines, for pipes and logs. Progress at most once a second."""

    def __init__(self) -> None:
        self._next_progress_s = 0.0
        self._last = ""

    def state(self, text: str) -> None:
        """Writes the state when it differs from the one before."""
        if text != self._last:
            self._last = text
            output.note(text)

    def progress(self, text: str) -> None:
        """Writes progress unless some was written within the last second."""
        now_s = time.monotonic()
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + _PROGRESS_PAUSE_S
            output.note(text)

    def say(self, text: str) -> None:
        """Writes lines."""
        output.note(text)

    def close(self) -> None:
        """Has nothing to end."""


class LiveLine:
    """One line with a spinner that is overwritten and goes away in the end."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._state = ""

    def state(self, text: str) -> None:
        """Shows the state in the live line."""
        self._state = text
        self._show(text)

    def progress(self, text: str) -> None:
        """Shows progress behind the state."""
        self._show(f"{self._state}  {text}")

    def say(self, text: str) -> None:
        """Writes lines above the live one."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Removes the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show(self, text: str) -> None:
        from rich.text import Text

        line = Text(text, no_wrap=True, overflow="ellipsis")
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        else:
            self._status.update(line)


def display() -> Display:
    """Returns the display that fits standard error."""
    return LiveLine() if sys.stderr.isatty() else Lines()


def state_text(task: task_pb2.Task) -> str:
    """Returns what a task is doing, in one line."""
    text = f"{task.spec.task_id} in {task.namespace} is {words.state_word(task.state)}"
    attempt = task.attempt
    if task.state in _HELD:
        text += f" on {attempt.agent_id}"
    if attempt.number > 1 or task.failure_count:
        text += f" (attempt {attempt.number})"
    if task.state == task_pb2.TASK_STATE_WAITING and task.failure_count:
        text += (
            f": attempt {attempt.number} failed, the next is due at {output.clock_of(task.next_attempt_time)}"
        )
    if task.HasField("cancel_request_time") and task.state not in words.TERMINAL_STATES:
        text += ", cancel requested"
    elif task.state in _HELD and attempt.state == task_pb2.ATTEMPT_STATE_STOPPING:
        text += ", told to stop"  # its timeout is over, or others shall have it
    return printable(text)


def show(event: scheduler_service_pb2.WatchTaskResponse, display: Display) -> None:
    """Shows one event of a task. Its end is left to the caller, who writes the outcome."""
    kind = event.WhichOneof("event")
    if kind == "task" and event.task.state not in words.TERMINAL_STATES:
        display.state(state_text(event.task))
    elif kind == "progress":
        display.progress(report_text(event.progress))
    elif kind == "output":
        display.say(chunk_text(event.output.chunk))


def report_text(report: task_pb2.ProgressReport) -> str:
    """Returns how far an attempt is, in one line."""
    return rows.progress_text(report) or "is getting on"


def chunk_text(chunk: bytes) -> str:
    """Returns a piece of a task's output as text that is safe to show."""
    return printable(chunk.decode("utf-8", "replace").rstrip("\n"), keep_newlines=True)
