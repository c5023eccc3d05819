"""Watching one task: how far a watcher may be behind, what it loses then, and what watching costs the others."""

from __future__ import annotations

import pytest

from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.engine.watch import (
    MAX_QUEUED,
    MAX_QUEUED_OUTPUT_BYTES,
    MAX_TOGETHER,
    MAX_WATCHERS,
    OutputPiece,
    Pieces,
    ProgressNote,
    TaskEvent,
    Watcher,
    WatchHub,
    together,
)
from tests.unit.domain.world import World
from tests.unit.store.samples import a_task

pytestmark = pytest.mark.anyio

CHUNK = bytes(64 * 1024)


async def all_of(watcher: Watcher) -> list[TaskEvent]:
    return [await watcher.next() for _ in range(watcher._queued)]


async def test_who_is_behind_loses_the_oldest_output_and_no_state_of_the_task() -> None:
    watcher = Watcher()
    task = a_task(1)
    watcher.put(task)
    pieces = [OutputPiece("a", 1, seq, CHUNK) for seq in range(100)]
    for part in together(list(pieces)):
        watcher.put(part)
    kept = MAX_QUEUED_OUTPUT_BYTES // len(CHUNK)
    assert await all_of(watcher) == [task, *pieces[-kept:]]
    # What was read counts no longer.
    for part in together(list(pieces[:kept])):
        watcher.put(part)
    assert await all_of(watcher) == pieces[:kept]
    assert watcher._output_bytes == 0


async def test_events_are_bounded_too() -> None:
    watcher = Watcher()
    states: list[TaskEvent] = [a_task(key) for key in range(3)]
    for state in states:
        watcher.put(state)  # type: ignore[arg-type]
    notes = [ProgressNote("a", 1, seq, None, "") for seq in range(2 * MAX_QUEUED)]
    for turn in (notes[:MAX_QUEUED], notes[MAX_QUEUED:]):
        for part in together(list(turn)):
            watcher.put(part)
    events = await all_of(watcher)
    assert MAX_QUEUED - MAX_TOGETHER < len(events) <= MAX_QUEUED
    assert events == [*states, *notes[len(states) - len(events) :]]


@pytest.mark.parametrize("read", [0, 1, MAX_TOGETHER - 1, MAX_TOGETHER, MAX_TOGETHER + 1])
async def test_what_was_read_before_the_rest_was_dropped_is_not_counted_twice(read: int) -> None:
    watcher = Watcher()
    pieces = [OutputPiece("a", 1, seq, b"xy") for seq in range(3 * MAX_QUEUED)]
    for part in together(list(pieces[:MAX_QUEUED])):
        watcher.put(part)
    for seq in range(read):
        assert await watcher.next() == pieces[seq]
    for part in together(list(pieces[MAX_QUEUED:])):
        watcher.put(part)
    events = await all_of(watcher)
    assert events == pieces[-len(events) :]
    assert (watcher._queued, watcher._output_bytes, len(watcher._events)) == (0, 0, 0)


def test_what_a_turn_brings_is_handed_over_in_few_parts_however_much_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    hub = WatchHub()
    handed: list[object] = []
    monkeypatch.setattr(Watcher, "put", lambda _watcher, event: handed.append(event))
    for number in range(3):
        hub.add(7, f"agent:default/a{number}")
    out = Effects()
    out.output += [(7, 1, "a", seq, b"x") for seq in range(5_000)]
    out.output += [(8, 1, "a", seq, b"x") for seq in range(5_000)]
    hub.tell(world.ns, out)
    parts = MAX_QUEUED // MAX_TOGETHER
    assert len(handed) == 3 * parts
    assert len(set(map(id, handed))) == parts, "made once for all who watch"
    (first, *_) = handed
    assert isinstance(first, Pieces)
    assert first.pieces[0] == OutputPiece("a", 1, 5_000 - MAX_QUEUED, b"x")


def test_one_caller_cannot_watch_a_task_any_number_of_times() -> None:
    hub = WatchHub()
    watchers = [hub.add(7, "agent:default/a") for _ in range(MAX_WATCHERS)]
    with pytest.raises(Refusal) as refused:
        hub.add(7, "agent:default/a")
    assert (refused.value.reason, refused.value.retry_ms > 0) == (Reason.OVERLOADED, True)
    hub.add(7, "agent:default/b")
    hub.add(8, "agent:default/a")
    hub.remove(7, watchers[0])
    hub.add(7, "agent:default/a")
