"""What ended long ago is deleted: piece by piece, and nothing younger than it is kept for."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.engine import retention
from meshd.engine.commits import Commits
from meshd.ports.store import StorageError, Store

pytestmark = pytest.mark.anyio

WEEK_MS = 7 * 24 * 3_600_000


async def test_it_goes_on_until_a_piece_is_not_full_and_then_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[Any] = []
    counts = [retention.PIECE, retention.PIECE, 3]

    async def sleep(seconds: float) -> None:
        happened.append(f"{seconds:g} s")

    def sweep(before_ms: int, limit: int) -> int:
        assert abs(time.time_ns() // 1_000_000 - WEEK_MS - before_ms) < 3_600_000
        if not counts:
            raise StorageError("the disk failed")
        happened.append(limit)
        return counts.pop(0)

    async def write_aside(write: Callable[..., Any], *given: Any) -> Any:
        return write(*given)

    monkeypatch.setattr(retention, "asyncio", SimpleNamespace(sleep=sleep))
    store, commits = SimpleNamespace(sweep=sweep), SimpleNamespace(write_aside=write_aside)
    with pytest.raises(StorageError):
        await retention.delete_old_tasks(cast("Store", store), cast("Commits", commits), WEEK_MS)
    assert happened == ["60 s", 500, 500, 500, "60 s"]
