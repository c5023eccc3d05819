"""The signals that end an agent's process: SIGTERM and SIGINT.

Rule: they are this process's alone. A child by fork, such as those of multiprocessing, has the handlers that were there
before: it would otherwise take a signal for the agent's and go on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: What the handlers now in force replaced, while there are any.
_replaced: dict[signal.Signals, Any] = {}


@contextmanager
def calling_on_signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Calls `on_signal` for each SIGTERM and SIGINT. Outside the main thread signals are left alone.

    Plain handlers, not the loop's: they also run while an async handler blocks the loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        on_signal()

    for number in (signal.SIGTERM, signal.SIGINT):
        _replaced[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        _restore()


def _restore() -> None:
    for number, handler in _replaced.items():
        signal.signal(number, handler)
    _replaced.clear()


# In a child the forking thread is the main one, so it may set handlers.
os.register_at_fork(after_in_child=_restore)
