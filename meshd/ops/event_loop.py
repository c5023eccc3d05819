"""The event loop seen from other threads: how late it runs, and what it answers.

Rule: nobody waits for the loop without a timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

T = TypeVar("T")

INTERVAL_S: Final = 0.25


class LoopLag:
    """Ticks on the loop of its making; its readings may be taken on any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due_mono = time.monotonic()
        self._lag_s = 0.0
        self._handle = self._loop.call_later(INTERVAL_S, self._tick)

    @property
    def lag_s(self) -> float:
        """Seconds by which the loop ran late lately; grows at once while it stands still."""
        return max(self._lag_s, time.monotonic() - self._due_mono - INTERVAL_S, 0.0)

    def stop(self) -> None:
        """Tick no more."""
        self._handle.cancel()

    def _tick(self) -> None:
        now_mono = time.monotonic()
        late_s = max(0.0, now_mono - self._due_mono - INTERVAL_S)
        # Falls by half a tick, so that a short stall is still seen by the next scrapes.
        self._lag_s = max(late_s, self._lag_s / 2)
        self._due_mono = now_mono
        self._handle = self._loop.call_later(INTERVAL_S, self._tick)


def ask(loop: asyncio.AbstractEventLoop, question: Callable[[], T], timeout_s: float) -> T | None:
    """Have the loop call a function and return its answer; None when there is none in time. Not for the loop's thread."""
    answer: Future[T] = Future()

    def reply() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(question())
        except Exception as error:  # noqa: BLE001 - the asker gets it, whatever it is
            answer.set_exception(error)

    try:
        loop.call_soon_threadsafe(reply)
        return answer.result(timeout_s)
    except TimeoutError:
        answer.cancel()
        return None
    except RuntimeError:
        if loop.is_closed():
            return None
        raise
