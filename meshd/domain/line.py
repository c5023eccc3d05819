"""The queued tasks of one priority, in order of arrival.

Invariant: a task that is QUEUED and was pushed and not popped since is in exactly one of ``_first``, ``_rest`` and ``_returned``. Keys
rise along ``_first`` and then ``_rest``; a task that came back later than its key says is in ``_returned``. An entry whose task is
not QUEUED any more goes when it comes to the head or, behind a head that nobody takes, when a sweep comes by (see ``swept_heap``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from itertools import islice

from meshd.domain.limits import COUNTED_AT_ONCE, FEW_ENTRIES, KEPT_AT_ONCE, SWEPT_AT_ONCE
from meshd.domain.swept_heap import SweptHeap
from meshd.domain.values import Task, TaskState

Returned = tuple[int, Task]
"""A task behind its key."""


def is_over(entry: Returned) -> bool:
    """Return whether the task of an entry is not queued any more."""
    return entry[1].state is not TaskState.QUEUED


class Line:
    """Queued tasks of one priority."""

    __slots__ = ("_first", "_rest", "_returned")

    def __init__(self) -> None:
        self._first: deque[Task] = deque()
        """Those that a sweep has looked at; they go before the rest."""
        self._rest: deque[Task] = deque()
        self._returned: SweptHeap[Returned] | None = None

    def __len__(self) -> int:
        """Entries kept, those whose tasks are over included."""
        returned = 0 if self._returned is None else len(self._returned)
        return len(self._first) + len(self._rest) + returned

    def __iter__(self) -> Iterator[Task]:
        """All tasks that are kept, in no order."""
        yield from self._first
        yield from self._rest
        for _, task in self._returned or ():
            yield task

    def push(self, task: Task) -> None:
        """Add a task that has just become QUEUED."""
        # Keys rise with arrival, so a new task is nearly always last; one that comes back is not.
        fresh = self._rest or self._first
        if not fresh or fresh[-1].key < task.key:
            self._rest.append(task)
            return
        if self._returned is None:
            self._returned = SweptHeap(is_over)
        self._returned.push((task.key, task))

    def head(self) -> Task | None:
        """Return the next task without taking it."""
        fresh = self._first or self._rest
        while fresh and fresh[0].state is not TaskState.QUEUED:
            fresh.popleft()
            fresh = self._first or self._rest
        if self._returned is not None:
            while (entry := self._returned.first()) is not None:
                if is_over(entry):
                    self._returned.pop()
                elif not fresh or entry[0] < fresh[0].key:
                    return entry[1]
                else:
                    break
        return fresh[0] if fresh else None

    def pop(self) -> Task:
        """Take the task that ``head`` returns. Raises IndexError when there is none."""
        head = self.head()
        fresh = self._first or self._rest
        if self._returned is not None and (not fresh or fresh[0] is not head):
            return self._returned.pop()[1]
        return fresh.popleft()

    def sweep(self) -> None:
        """Look at a few entries, because the task of one is not queued any more."""
        if self._returned is not None:
            self._returned.sweep()
        if not self._rest:
            self._first, self._rest = self._rest, self._first
        if len(self._first) + len(self._rest) <= FEW_ENTRIES:
            return
        kept = 0
        for _ in range(min(SWEPT_AT_ONCE, len(self._rest))):
            task = self._rest.popleft()
            if task.state is TaskState.QUEUED:
                self._first.append(task)
                kept += 1
                if kept == KEPT_AT_ONCE:
                    return

    def before(self, key: int) -> Iterator[int]:
        """Count about how many entries go before a key, in parts that are quick to count."""
        yield sum(bisect_left(fresh, key, key=_key) for fresh in (self._first, self._rest))
        returned = iter(self._returned or ())
        while part := list(islice(returned, COUNTED_AT_ONCE)):
            yield sum(each < key for each, _ in part)


def _key(task: Task) -> int:
    return task.key
