"""Timers: what ends before its time does not stay in memory until then."""

from __future__ import annotations

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.limits import FEW_ENTRIES
from meshd.domain.values import TaskState
from tests.unit.domain.world import World, fence

DAY_MS = 24 * 3_600_000


@pytest.mark.parametrize("timeout", ["timeout_ms", "queue_timeout_ms"])
def test_tasks_cancelled_long_before_their_deadline_leave_no_timers(timeout: str) -> None:
    world = World()
    for number in range(3 * FEW_ENTRIES):
        world.submit(f"t{number}", **{timeout: DAY_MS})
        world.do(c.Cancel(None, f"t{number}", 0))
    assert not world.ns.tasks
    assert len(world.ns.timers) <= FEW_ENTRIES


def test_tasks_done_long_before_their_timeouts_leave_no_timers() -> None:
    world = World()
    session, stream = world.agent("a")
    for number in range(2 * FEW_ENTRIES):
        world.submit(f"t{number}", timeout_ms=DAY_MS, queue_timeout_ms=DAY_MS, execution_timeout_ms=DAY_MS)
        world.send(session, f.Accept(fence(stream)))
        world.send(session, f.Done(fence(stream), b""))
    assert not world.ns.tasks
    assert len(world.ns.timers) <= FEW_ENTRIES + 3


def test_timeouts_of_attempts_that_ended_go_though_their_task_goes_on() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("again", execution_timeout_ms=DAY_MS)
    for number in range(2 * FEW_ENTRIES):
        world.send(session, f.Accept(fence(stream)), f.Stopped(fence(stream)))
        world.submit(f"t{number}", "nobody can")
        world.do(c.Cancel(None, f"t{number}", 0))
        world.wait(1)
    assert world.task("again").state is TaskState.ASSIGNED
    assert len(world.ns.timers) <= FEW_ENTRIES + 1


def test_a_task_that_begins_anew_without_end_leaves_no_timers_of_its_attempts() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("again", execution_timeout_ms=DAY_MS)
    for _ in range(3 * FEW_ENTRIES):
        world.send(session, f.Accept(fence(stream)), f.Stopped(fence(stream)))
        world.wait(1)
    assert world.task("again").state is TaskState.ASSIGNED
    assert len(world.ns.timers) <= FEW_ENTRIES + 1


def test_declines_leave_no_timers_of_tasks_that_ended_elsewhere() -> None:
    world = World()
    grumpy, refused = world.agent("grumpy", can=("work", "more"))
    for number in range(2 * FEW_ENTRIES):
        world.submit(f"t{number}")
        world.send(grumpy, f.Decline(fence(refused), "busy", DAY_MS))
        world.do(c.Cancel(None, f"t{number}", 0))
    assert len(world.ns.timers) <= FEW_ENTRIES + 1


def test_deadlines_hold_among_many_that_were_swept() -> None:
    world = World()
    world.submit("late", timeout_ms=60_000)
    world.submit("soon", timeout_ms=30_000)
    for number in range(4 * FEW_ENTRIES):
        world.submit(f"t{number}", timeout_ms=DAY_MS)
        world.do(c.Cancel(None, f"t{number}", 0))
    world.wait(29)
    assert set(world.ns.tasks) == {"late", "soon"}
    world.wait(1)
    assert set(world.ns.tasks) == {"late"}
    world.wait(30)
    assert not world.ns.tasks
