"""The process itself: its signals, its end, and how many connections the system lets it have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import threading
from collections.abc import Callable
from typing import Final

MAX_OPEN_FILES: Final = 1_048_576


def allow_many_connections() -> None:
    """Raise the limit of open files to what the system grants; by default it is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def on_signals(stop: Callable[[str], None], reload: Callable[[], None]) -> None:
    """Call ``stop`` with its name at SIGTERM or SIGINT on the running loop; repeated, they end the process at once.

    SIGHUP says that the terminal is closed, maybe twice, and stops too; to a daemon, which has none, it says: ``reload``.
    Where it is ignored, as under nohup, it stays ignored.
    """
    loop = asyncio.get_running_loop()
    of_terminal = has_terminal()

    def received(number: signal.Signals) -> None:
        if number is not signal.SIGHUP:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        elif not of_terminal:
            reload()
            return
        stop(number.name)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            loop.add_signal_handler(each, received, each)


def has_terminal() -> bool:
    """True when a terminal controls the process: its end would be told by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def end_later(code: int, seconds: float) -> threading.Timer:
    """End the process after so long whatever hangs, unless the timer is cancelled."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()
    return timer
