"""Watching one task: how far a watcher may be behind, and what it loses then."""

from __future__ import annotations

import pytest

from meshd.engine.watch import (
    MAX_QUEUED,
    MAX_QUEUED_OUTPUT_BYTES,
    OutputPiece,
    ProgressNote,
    TaskEvent,
    Watcher,
)
from tests.unit.store.samples import a_task

pytestmark = pytest.mark.anyio

CHUNK = bytes(64 * 1024)


async def all_of(watcher: Watcher) -> list[TaskEvent]:
    return [await watcher.next() for _ in range(len(watcher._events))]


async def test_who_is_behind_loses_the_oldest_output_and_no_state_of_the_task() -> None:
    watcher = Watcher()
    task = a_task(1)
    watcher.put(task)
    pieces = [OutputPiece("a", 1, seq, CHUNK) for seq in range(100)]
    for piece in pieces:
        watcher.put(piece)
    kept = MAX_QUEUED_OUTPUT_BYTES // len(CHUNK)
    assert await all_of(watcher) == [task, *pieces[-kept:]]
    # What was read counts no longer.
    for piece in pieces[:kept]:
        watcher.put(piece)
    assert await all_of(watcher) == pieces[:kept]


async def test_events_are_bounded_too() -> None:
    watcher = Watcher()
    states: list[TaskEvent] = [a_task(key) for key in range(3)]
    notes: list[TaskEvent] = [ProgressNote("a", 1, seq, None, "") for seq in range(2 * MAX_QUEUED)]
    for event in [*states, *notes]:
        watcher.put(event)
    events = await all_of(watcher)
    assert len(events) == MAX_QUEUED
    assert events[:3] == states
    assert events[-1] == notes[-1]
