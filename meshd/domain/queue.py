"""The queue of one requirement set: strict priority, first come first served inside a priority.

Invariant: the head is the queued task with the highest priority and, among those, the lowest key. Tasks that come back
(retry, loss, decline) keep their place in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd.domain.line import Line
from meshd.domain.values import Task, TaskState


class TaskQueue:
    """Queued tasks of one requirement set."""

    __slots__ = ("_lines", "_top", "size")

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}
        """By priority."""
        self._top = 0
        """No priority above this one has queued tasks."""
        self.size = 0
        """Tasks in here that are QUEUED."""

    def __len__(self) -> int:
        """Entries kept, those whose tasks are not QUEUED any more included."""
        return sum(map(len, self._lines.values()))

    def push(self, task: Task) -> None:
        """Add a task that has just become QUEUED."""
        priority = task.spec.priority
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = Line()
        line.push(task)
        self._top = max(self._top, priority)
        self.size += 1

    def removed(self, task: Task) -> None:
        """Note that a task in here is no longer QUEUED, or about to be something else; its entry goes by and by."""
        self.size -= 1
        if self.size:
            self._lines[task.spec.priority].sweep()
        else:
            self._lines = {}

    def head(self) -> Task | None:
        """Return the next task without taking it."""
        while True:
            line = self._lines.get(self._top)
            task = None if line is None else line.head()
            if task is not None or not self._top:
                return task
            self._top -= 1

    def pop(self) -> Task:
        """Take the task that ``head`` has just returned."""
        task = self._lines[self._top].pop()
        self.size -= 1
        return task

    def before(self, task: Task) -> Iterator[int]:
        """Count about how many queued tasks go before this one, in parts that are quick to count; the sum is the number.

        Those cancelled lately may still be counted. The queue may change between two parts.
        """
        priority = task.spec.priority
        yield sum(len(line) for each, line in self._lines.items() if each > priority)
        if priority in self._lines:
            yield from self._lines[priority].before(task.key)

    def firsts(self) -> Iterator[Task]:
        """The first task of each priority: the one that arrived before all others of it."""
        heads = (line.head() for line in self._lines.values())
        return (task for task in heads if task is not None)

    def __iter__(self) -> Iterator[Task]:
        """All tasks that are kept and QUEUED, in no particular order."""
        for line in self._lines.values():
            yield from (task for task in line if task.state is TaskState.QUEUED)
