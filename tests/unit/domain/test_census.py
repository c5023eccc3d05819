"""Counts of a namespace that do not walk over its backlog. ``invariants`` compares them with one that does."""

from __future__ import annotations

from dataclasses import replace

from meshd.domain import census
from meshd.domain.limits import COUNTED_AT_ONCE
from meshd.domain.queue import TaskQueue
from meshd.domain.values import TaskState
from tests.unit.domain.world import World


def test_counts_open_tasks_by_state() -> None:
    world = World()
    world.submit("held")
    world.agent("a", slots=1)
    world.submit("queued")
    assert census.open_tasks(world.ns) == {
        TaskState.WAITING: 0,
        TaskState.QUEUED: 1,
        TaskState.ASSIGNED: 1,
        TaskState.RUNNING: 0,
    }


def test_the_oldest_queued_task_counts_whatever_its_priority() -> None:
    world = World()
    assert census.oldest_queued_ms(world.ns) is None
    world.submit("old", priority=1)
    world.mono += 5
    world.submit("young", priority=9)
    assert census.oldest_queued_ms(world.ns) == world.task("old").submit_ms
    assert world.task("old").submit_ms < world.task("young").submit_ms


def test_tasks_nobody_alive_can_take_are_named() -> None:
    world = World()
    world.submit("t1")
    assert [pool.queue.size for pool in census.without_takers(world.ns)] == [1]
    world.agent("a")
    assert list(census.without_takers(world.ns)) == []


def test_the_place_in_the_queue_goes_by_priority_then_arrival() -> None:
    world = World()
    for name, priority in (("a", 5), ("b", 5), ("c", 9), ("d", 1)):
        world.submit(name, priority=priority)
    queue = world.ns.pools.pool(world.task("a").spec.requirements).queue
    places = {name: sum(queue.before(world.task(name))) for name in "abcd"}
    assert places == {"c": 0, "a": 1, "b": 2, "d": 3}


def test_tasks_that_came_back_by_the_thousand_are_counted_in_parts() -> None:
    world = World()
    world.submit("first")
    first = world.task("first")
    queue = TaskQueue()
    # Those that came before the newest one stand where the returned ones do.
    for key in (COUNTED_AT_ONCE * 3, *range(COUNTED_AT_ONCE * 2)):
        queue.push(replace(first, key=key))
    parts = list(queue.before(replace(first, key=COUNTED_AT_ONCE)))
    assert sum(parts) == COUNTED_AT_ONCE
    assert len(parts) == 4
