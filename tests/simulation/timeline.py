"""Virtual time: what is due first happens first; equal times keep the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Timeline:
    """The clock of one world and everything that is going to happen."""

    def __init__(self) -> None:
        self.now = 100.0
        """Seconds of the monotonic clock."""
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count()

    def at(self, due: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen at a time, or now when that is past."""
        heapq.heappush(self._due, (max(due, self.now), next(self._numbers), call, arguments))

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen after a while."""
        self.at(self.now + seconds, call, *arguments)

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, call, arguments = heapq.heappop(self._due)
        call(*arguments)
