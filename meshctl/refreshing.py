"""Shows a view again and again: over the last one on a terminal, one below the other elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from meshctl import output
from meshctl.following import GIVE_UP_S
from meshctl.problems import ExitCode, Problem


def refresh(show: Callable[[], None], wait: Callable[[], None]) -> ExitCode:
    """Shows and waits in turn until Ctrl-C; while meshd is away, what was shown last stays.

    Raises Problem when meshd stays away for `GIVE_UP_S` or refuses.
    """
    lost_since_s: float | None = None
    shown = False
    try:
        while True:
            try:
                show_over = show if not shown or not sys.stdout.isatty() else lambda: _over(show)
                show_over()
                shown, lost_since_s = True, None
            except Problem as problem:
                now_s = time.monotonic()
                if not shown or problem.code != ExitCode.UNREACHABLE:
                    raise
                if lost_since_s is None:
                    lost_since_s = now_s
                    output.note("lost the connection; trying again")
                elif now_s - lost_since_s > GIVE_UP_S:
                    raise
            wait()
    except KeyboardInterrupt:
        return ExitCode.DONE


def _over(show: Callable[[], None]) -> None:
    click.clear()
    show()
