"""Deletes tasks that ended long ago, in small pieces between commits."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from meshd.engine.commits import Commits
from meshd.ports.store import Store

INTERVAL_S: Final = 60.0
PIECE: Final = 500
"""Tasks deleted at a time: a commit never waits for longer than one such piece."""


async def delete_old_tasks(store: Store, commits: Commits, retention_ms: int) -> None:
    """Go on until cancelled. Raises StorageError."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        before_ms = time.time_ns() // 1_000_000 - retention_ms
        while await commits.write_aside(store.sweep, before_ms, PIECE) == PIECE:
            pass
