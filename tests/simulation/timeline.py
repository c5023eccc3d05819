"""Virtual time: what is due first happens first; equal times keep the order in which they were asked for.

Much is due at once, as answers to what has just happened: so the heap orders times, each once, and not what is due then.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timeline:
    """The clock of one world and everything that is going to happen."""

    def __init__(self) -> None:
        self.now = 100.0
        """Seconds of the monotonic clock."""
        self._present: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What is due now, from ``_next`` on."""
        self._next = 0
        self._later: dict[float, list[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self._times: list[float] = []
        """The keys of ``_later``, as a heap."""

    def at(self, due: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen at a time, or now when that is past."""
        self._put(due, call, arguments)

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen after a while."""
        self._put(self.now + seconds, call, arguments)

    def _put(self, due: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if due <= self.now:
            self._present.append((call, arguments))
            return
        waiting = self._later.get(due)
        if waiting is None:
            self._later[due] = [(call, arguments)]
            heappush(self._times, due)
        else:
            waiting.append((call, arguments))

    def step(self) -> None:
        """Let the next thing happen."""
        if self._next == len(self._present):
            self.now = heappop(self._times)
            self._present = self._later[self.now]
            del self._later[self.now]
            self._next = 0
        call, arguments = self._present[self._next]
        self._next += 1
        call(*arguments)
