"""What ended long ago is deleted: piece by piece, nothing younger than it is kept for, and from memory too.

And by a clock that there is reason to believe.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.domain.commands import Cancel, Submit, Submitted
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import SessionRules
from meshd.domain.values import TaskSpec, requirements_for
from meshd.engine import retention
from meshd.engine.commits import Commits
from meshd.engine.mesh import Mesh
from meshd.ops.metrics import Metrics
from meshd.ports.store import StorageError, Store
from meshd.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio

WEEK_MS = 7 * 24 * 3_600_000
START_S = 1_700_000_000.0
DAY_S = 24 * 3_600.0


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

    monkeypatch.setattr(retention, "STEADY_S", 0.0)
    monkeypatch.setattr(retention, "asyncio", SimpleNamespace(sleep=sleep))
    store, commits = SimpleNamespace(sweep=sweep), SimpleNamespace(write_aside=write_aside)
    with pytest.raises(StorageError):
        await retention.delete_old_tasks(cast("Store", store), cast("Commits", commits), list, WEEK_MS)
    assert happened == ["60 s", 500, 500, 500, "60 s"]


class SweptStore:
    """Says when it was swept."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.swept = threading.Event()

    def sweep(self, ended_before_ms: int, limit: int) -> int:
        count = self._store.sweep(ended_before_ms, limit)
        self.swept.set()
        return count


def submission(task_id: str, ticket: object) -> Submit:
    spec = TaskSpec(task_id, "echo", b"", task_id.encode(), requirements_for("echo"))
    return Submit(ticket, [spec], "one", {}, 0, False)


async def test_a_task_whose_retention_is_over_is_gone_from_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "INTERVAL_S", 0.0)
    monkeypatch.setattr(retention, "STEADY_S", 0.0)
    store = SqliteStore(tmp_path, 1)
    mesh = Mesh(store, store.load(), SessionRules(), Metrics(), lambda error: pytest.fail(str(error)))
    ns = mesh.namespaces["default"]
    for task_id in ("old", "newest"):  # The newest row stays, whatever its age.
        await mesh.ask(ns, partial(submission, task_id))
    await mesh.ask(ns, lambda ticket: Cancel(ticket, "old", 0))
    assert (await mesh.find_task(ns, "old")).terminal

    swept: Any = SweptStore(store)
    a_minute_ahead_ms = -60_000
    deleting = asyncio.create_task(
        retention.delete_old_tasks(
            cast("Store", swept), mesh.commits, mesh.namespaces.values, a_minute_ahead_ms
        )
    )
    assert await asyncio.to_thread(swept.swept.wait, 30)
    with pytest.raises(Refusal) as refused:
        await mesh.find_task(ns, "old")
    assert refused.value.reason is Reason.TASK_NOT_FOUND
    assert not (await mesh.find_task(ns, "newest")).terminal
    (again,) = await mesh.ask(ns, partial(submission, "old"))
    assert again == Submitted("old", False, None)
    deleting.cancel()
    await mesh.shutdown()
    store.close()


class Clock:
    """Time that passes only while the retention sleeps; ``ahead_s`` says by how much the wall clock is wrong."""

    def __init__(self, ahead_s: Callable[[float], float], end_mono: float) -> None:
        self.mono = 0.0
        self._ahead_s = ahead_s
        self._end_mono = end_mono

    def time(self) -> float:
        return START_S + self.mono + self._ahead_s(self.mono)

    def monotonic(self) -> float:
        return self.mono

    async def sleep(self, seconds: float) -> None:
        self.mono += seconds
        if self.mono > self._end_mono:
            raise asyncio.CancelledError


class Sweeps:
    """Stands for the store and its commits, and keeps until when which sweep deleted."""

    def __init__(self, clock: Clock) -> None:
        self.done: list[tuple[float, float]] = []
        self._clock = clock

    def sweep(self, ended_before_ms: int, _limit: int) -> int:
        self.done.append((self._clock.mono, ended_before_ms / 1_000 + DAY_S - START_S))
        return 0

    async def write_aside(self, write: Callable[..., Any], *args: Any) -> Any:
        return write(*args)


async def swept(
    monkeypatch: pytest.MonkeyPatch, ahead_s: Callable[[float], float]
) -> list[tuple[float, float]]:
    """Return when each sweep came and what time it went by, both since the start."""
    clock = Clock(ahead_s, 2 * 3_600.0)
    sweeps = Sweeps(clock)
    monkeypatch.setattr(retention, "time", clock)
    monkeypatch.setattr(retention, "asyncio", SimpleNamespace(sleep=clock.sleep))
    with pytest.raises(asyncio.CancelledError):
        await retention.delete_old_tasks(
            cast("Store", sweeps), cast("Commits", sweeps), list, int(DAY_S * 1_000)
        )
    return sweeps.done


async def test_every_minute_what_is_over_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    done = await swept(monkeypatch, lambda mono: 0.0)
    assert [mono for mono, _ in done] == [retention.STEADY_S + 60 * number for number in range(len(done))]
    assert len(done) > 60
    assert all(by == mono for mono, by in done)


@pytest.mark.parametrize("begin_mono", [0.0, 3_000.0])
async def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(
    begin_mono: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead_s(mono: float) -> float:
        return 8 * DAY_S if begin_mono <= mono < begin_mono + 1_000 else 0.0

    done = await swept(monkeypatch, ahead_s)
    assert all(by == mono for mono, by in done)
    silent = [mono for mono, _ in done if begin_mono <= mono < begin_mono + 1_000 + retention.STEADY_S]
    assert silent == []
    assert done[-1][0] > begin_mono + 1_000


async def test_a_clock_that_was_set_for_good_is_believed_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    done = await swept(monkeypatch, lambda mono: DAY_S if mono >= 3_000 else 0.0)
    assert done[-1][1] == done[-1][0] + DAY_S
    assert min(mono for mono, by in done if by > mono) >= 3_000 + retention.STEADY_S


async def test_a_clock_that_drifts_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    done = await swept(monkeypatch, lambda mono: mono / 100)
    assert len(done) == len(await swept(monkeypatch, lambda mono: 0.0))
