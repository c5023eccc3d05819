"""A heap that does not keep what is over until it comes to the head.

Timers of a day, and queues behind a head that nobody takes, would hold every task that ended meanwhile. To rebuild a heap of a
million in one piece takes longer than a turn may (0.3 to 1.3 s), so whatever ends pays for a few steps of a rebuild that never
stops: entries move from one heap to another. They are taken from the end of the old heap's list, which leaves it a heap.

Invariant: every entry that is not over is in exactly one of the two heaps. While a million tasks with two timers each were cancelled,
in any order, there were at most 1.7 times as many entries as were needed, and at the end fewer than FEW_ENTRIES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain
from typing import Any, Generic, TypeVar

from meshd.domain.limits import FEW_ENTRIES, KEPT_AT_ONCE, SWEPT_AT_ONCE

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class SweptHeap(Generic[Entry]):
    """Entries by their order; no two are equal."""

    __slots__ = ("_is_over", "_new", "_old")

    def __init__(self, is_over: Callable[[Entry], bool]) -> None:
        self._is_over = is_over
        self._new: list[Entry] = []
        self._old: list[Entry] = []
        """Those that are still to be looked at; empty between two rounds."""

    def __len__(self) -> int:
        """Entries kept, those that are over included."""
        return len(self._new) + len(self._old)

    def __iter__(self) -> Iterator[Entry]:
        """All that is kept, in no order."""
        return chain(self._new, self._old)

    def push(self, entry: Entry) -> None:
        """Add an entry."""
        heappush(self._new, entry)

    def first(self) -> Entry | None:
        """Return the least entry, which may be over; None without any."""
        heap = self._with_first()
        return heap[0] if heap else None

    def pop(self) -> Entry:
        """Take the least entry."""
        return heappop(self._with_first())

    def sweep(self) -> None:
        """Go on with the rebuild for a few steps, because something has ended that has entries here."""
        if not self._old:
            if len(self._new) <= FEW_ENTRIES:
                return
            self._old, self._new = self._new, self._old
        kept = 0
        for _ in range(min(SWEPT_AT_ONCE, len(self._old))):
            entry = self._old.pop()
            if not self._is_over(entry):
                heappush(self._new, entry)
                kept += 1
                if kept == KEPT_AT_ONCE:
                    return

    def _with_first(self) -> list[Entry]:
        """Return the heap whose head is the least entry."""
        if self._old and (not self._new or self._old[0] < self._new[0]):
            return self._old
        return self._new
