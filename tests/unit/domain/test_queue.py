"""The queue of one requirement set: what is over does not stay in it."""

from __future__ import annotations

from meshd.domain.values import TaskState
from tests.unit.domain.world import World


def test_with_the_last_task_the_entries_of_all_that_are_over_go() -> None:
    world = World()
    for n in range(3):
        world.submit(f"t{n}")
    tasks = list(world.ns.tasks.values())
    queue = world.ns.pools.pool(tasks[0].spec.requirements).queue
    assert queue.size == sum(map(len, queue._fresh)) == 3
    for task in reversed(tasks):
        task.state = TaskState.CANCELLED
        queue.removed()
    assert not any(queue._fresh)
    assert queue.head() is None
