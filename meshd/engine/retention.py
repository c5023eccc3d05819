"""Deletes tasks that ended long ago, in small pieces between commits.

Rule: memory forgets them first. What it knew of a task whose result is gone would be told without the result.
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


async def delete_old_tasks(
    store: Store, commits: Commits, namespaces: Callable[[], Iterable[Namespace]], retention_ms: int
) -> None:
    """Go on until cancelled. Raises StorageError."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        before_ms = time.time_ns() // 1_000_000 - retention_ms
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
