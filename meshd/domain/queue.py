"""The queue of one requirement set: strict priority, first come first served inside a priority.

Invariant: the head is the queued task with the highest priority and, among those, the lowest key. Tasks that come back
(retry, loss, decline) keep their place in the order of arrival. Removal is lazy: an entry counts only while its
task is QUEUED and its ticket is current.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import Final

from meshd.domain.limits import COUNTED_AT_ONCE
from meshd.domain.values import Task, TaskState

PRIORITIES: Final = 10


class TaskQueue:
    """Queued tasks of one requirement set."""

    __slots__ = ("_fresh", "_returned", "_top", "size")

    def __init__(self) -> None:
        self._fresh: list[deque[Task]] = [deque() for _ in range(PRIORITIES)]
        self._returned: list[list[tuple[int, Task]]] = [[] for _ in range(PRIORITIES)]
        self._top = 0
        """No priority above this one has entries."""
        self.size = 0
        """Tasks in here that are QUEUED."""

    def push(self, task: Task) -> None:
        """Add a task that has just become QUEUED."""
        priority = task.spec.priority
        fresh = self._fresh[priority]
        # Keys rise with arrival, so a new task is nearly always last; one that comes back is not.
        if not fresh or fresh[-1].key < task.key:
            fresh.append(task)
        else:
            heapq.heappush(self._returned[priority], (task.key, task))
        self._top = max(self._top, priority)
        self.size += 1

    def removed(self) -> None:
        """Note that a task in here is no longer QUEUED; its entry goes when it comes to the head, or with the last task."""
        self.size -= 1
        if not self.size:
            # One by one, a million of them would stop the daemon for longer.
            for fresh, returned in zip(self._fresh, self._returned, strict=True):
                fresh.clear()
                returned.clear()

    def head(self) -> Task | None:
        """Return the next task without taking it."""
        task = self._head_of(self._top)
        while task is None and self._top:
            self._top -= 1
            task = self._head_of(self._top)
        return task

    def pop(self) -> Task:
        """Take the task that ``head`` returns. Raises IndexError when there is none."""
        task = self.head()
        fresh = self._fresh[self._top]
        if fresh and fresh[0] is task:
            task = fresh.popleft()
        else:
            _, task = heapq.heappop(self._returned[self._top])
        self.size -= 1
        return task

    def before(self, task: Task) -> Iterator[int]:
        """Count about how many queued tasks go before this one, in parts that are quick to count; the sum is the number.

        Those cancelled lately may still be counted. The queue may change between two parts.
        """
        priority = task.spec.priority
        above = range(priority + 1, PRIORITIES)
        yield sum(len(self._fresh[p]) + len(self._returned[p]) for p in above)
        yield bisect_left(self._fresh[priority], task.key, key=lambda other: other.key)
        returned = self._returned[priority]
        for start in range(0, len(returned), COUNTED_AT_ONCE):
            yield sum(key < task.key for key, _ in returned[start : start + COUNTED_AT_ONCE])

    def firsts(self) -> Iterator[Task]:
        """The first task of each priority: the one that arrived before all others of it."""
        for priority in range(self._top + 1):
            task = self._head_of(priority)
            if task is not None:
                yield task

    def __iter__(self) -> Iterator[Task]:
        """Queued tasks in no particular order."""
        for fresh in filter(None, self._fresh):
            yield from (task for task in fresh if task.state is TaskState.QUEUED)
        for returned in filter(None, self._returned):
            yield from (task for _, task in returned if task.state is TaskState.QUEUED)

    def _head_of(self, priority: int) -> Task | None:
        fresh, returned = self._fresh[priority], self._returned[priority]
        while fresh and fresh[0].state is not TaskState.QUEUED:
            fresh.popleft()
        while returned and returned[0][1].state is not TaskState.QUEUED:
            heapq.heappop(returned)
        if not returned:
            return fresh[0] if fresh else None
        if not fresh or returned[0][0] < fresh[0].key:
            return returned[0][1]
        return fresh[0]
