"""Deletes tasks that ended long ago, in small pieces between commits.

Rules: memory forgets them first; what it knew of a task whose result is gone would be told without the result. A wall
clock that was just set deletes nothing; it is believed once it has gone evenly for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from meshd.domain.state import Namespace
from meshd.engine.commits import Commits
from meshd.ports.store import Store

INTERVAL_S: Final = 60.0
PIECE: Final = 500
"""Tasks deleted at a time: a commit never waits for longer than one such piece."""

STEADY_S: Final = 1_200.0
"""Longer than the 1,024 s between two questions to a time server, so that a wrong answer has been followed by another."""
STEP_S: Final = 60.0
"""A clock that moved by more than this against the monotonic one, from one look to the next, was set."""


class SteadyClock:
    """The wall clock, as far as it is believed."""

    def __init__(self) -> None:
        self._set_mono = time.monotonic()
        self._offset_s = time.time() - self._set_mono

    def now_ms(self) -> int | None:
        """Return the time; None when the clock was set lately, or has not been looked at for long enough."""
        now_s, now_mono = time.time(), time.monotonic()
        last_offset_s, self._offset_s = self._offset_s, now_s - now_mono
        if abs(self._offset_s - last_offset_s) > STEP_S:
            self._set_mono = now_mono
        return int(now_s * 1_000) if now_mono - self._set_mono >= STEADY_S else None


async def delete_old_tasks(
    store: Store, commits: Commits, namespaces: Callable[[], Iterable[Namespace]], retention_ms: int
) -> None:
    """Go on until cancelled. Raises StorageError."""
    clock = SteadyClock()
    while True:
        await asyncio.sleep(INTERVAL_S)
        now_ms = clock.now_ms()
        if now_ms is None:
            continue
        before_ms = now_ms - retention_ms
        for ns in list(namespaces()):
            forget_ended(ns, before_ms)
            await asyncio.sleep(0)
        while await commits.write_aside(store.sweep, before_ms, PIECE) == PIECE:
            pass


def forget_ended(ns: Namespace, before_ms: int) -> None:
    """Drop from memory what ended before that."""
    # All are looked at: ends are not in the order of their times where the clock was set.
    for task_id in [task_id for task_id, task in ns.recent.items() if task.end_ms < before_ms]:
        del ns.recent[task_id]
