"""What ends a command early, and the exit code that says so.

Invariant: whatever goes wrong reaches the user as two lines (what was wrong, what to do next) and one of
these codes; no traceback. The codes are part of the command line's contract: scripts decide by them.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of meshctl."""

    DONE = 0
    TASK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    BUG = 70
    OUTPUT_FAILED = 74
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


EXIT_CODE_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.TASK_FAILED: "the task failed or was cancelled; the process run by deploy failed; or doctor found something",
    ExitCode.USAGE: "usage: an option, an argument or a field of the request is not acceptable",
    ExitCode.NOT_FOUND: "not found: no such namespace, agent, task or drain",
    ExitCode.NOT_ALLOWED: "not allowed: the token is missing or refused, or access is denied",
    ExitCode.UNREACHABLE: "unreachable: no meshd answers there, or it takes no calls now; try again later",
    ExitCode.TIMED_OUT: "timed out: what was waited for did not happen within --timeout or --queue-timeout",
    ExitCode.BUG: "a bug in meshd or meshctl; please report it",
    ExitCode.OUTPUT_FAILED: "the output cannot be written, as on a full disk; what was asked for may be done",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; a task that was waited for goes on",
    ExitCode.OUTPUT_CLOSED: "the reader of the output went away, as in `meshctl task list | head`",
}


class Problem(Exception):
    """Something the user must know: what was wrong, what to do next, and the exit code."""

    def __init__(self, what: str, next_step: str, code: ExitCode, reason: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.code = code
        #: The mesh's reason for a refusal, such as TASK_EXISTS; empty when no call was refused.
        self.reason = reason


def usage(what: str, next_step: str) -> Problem:
    """Returns a Problem with what the user typed."""
    return Problem(what, next_step, ExitCode.USAGE)
