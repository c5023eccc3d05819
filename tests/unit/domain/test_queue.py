"""The queue of one requirement set: what is over does not stay in it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from meshd.domain import line, swept_heap
from meshd.domain.limits import FEW_ENTRIES
from meshd.domain.queue import TaskQueue
from meshd.domain.values import Task, TaskState
from tests.unit.domain.world import World


def _tasks(count: int) -> list[Task]:
    world = World()
    world.submit("t")
    first = world.task("t")
    return [replace(first, key=n, spec=replace(first.spec)) for n in range(count)]


def _cancel(queue: TaskQueue, task: Task) -> None:
    queue.removed(task)
    task.state = TaskState.CANCELLED


def test_with_the_last_task_the_entries_of_all_that_are_over_go() -> None:
    queue = TaskQueue()
    tasks = _tasks(3)
    for task in tasks:
        queue.push(task)
    assert queue.size == len(queue) == 3
    for task in reversed(tasks):
        _cancel(queue, task)
    assert not len(queue)
    assert queue.head() is None


@pytest.mark.parametrize("returned", [False, True])
def test_what_is_over_does_not_pile_up_behind_a_head_that_nobody_takes(returned: bool) -> None:
    queue = TaskQueue()
    tasks = _tasks(1_000)
    if returned:
        # What comes after a younger one has come back.
        queue.push(tasks.pop())
    first = tasks[0]
    queue.push(first)
    for task in tasks[1:]:
        queue.push(task)
        _cancel(queue, task)
        assert len(queue) <= FEW_ENTRIES + 4
    assert queue.head() is first


@pytest.mark.parametrize("backwards", [False, True])
def test_of_many_tasks_that_are_cancelled_few_entries_stay(backwards: bool) -> None:
    queue = TaskQueue()
    tasks = _tasks(2_000)
    for task in tasks:
        queue.push(task)
    first = tasks.pop(0)
    for task in reversed(tasks) if backwards else tasks:
        _cancel(queue, task)
        assert len(queue) <= 2 * queue.size + FEW_ENTRIES
    assert queue.head() is first


@pytest.mark.parametrize("seed", range(20))
def test_the_order_stays_while_entries_go(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FEW_ENTRIES", 2)
    monkeypatch.setattr(swept_heap, "FEW_ENTRIES", 2)
    rng = Random(seed)
    queue = TaskQueue()
    queued: list[Task] = []
    for task in _tasks(300):
        task.spec.priority = rng.randrange(3)
        queue.push(task)
        queued.append(task)
        roll = rng.random()
        if roll < 0.5:
            _cancel(queue, queued.pop(rng.randrange(len(queued))))
        elif roll < 0.7:
            # Drawn, and back at its place.
            drawn = queue.head()
            assert drawn is queue.pop()
            drawn.state = TaskState.ASSIGNED
            drawn.state = TaskState.QUEUED
            queue.push(drawn)
        queued.sort(key=lambda each: (-each.spec.priority, each.key))
        assert queue.size == len(queued)
        assert sorted(each.key for each in queue) == sorted(each.key for each in queued)
        assert queue.head() is (queued[0] if queued else None)
        for place, each in enumerate(queued):
            assert place <= sum(queue.before(each)) <= place + len(queue) - queue.size
    for each in queued:
        assert queue.head() is each
        assert queue.pop() is each
    assert queue.head() is None
