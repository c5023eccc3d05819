"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class VirtualClock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + max(0.0, seconds), next(self._order), wake))
        await wake

    async def advance(self, seconds: float) -> None:
        """Lets `seconds` pass, waking each sleeper at its time and letting it act before the next."""
        until_s = self.now_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            at_s, _, wake = heapq.heappop(self._sleepers)
            self.now_s = max(self.now_s, at_s)
            if not wake.done():
                wake.set_result(None)
                await settle()
        self.now_s = until_s


async def settle() -> None:
    """Lets everything that is ready run until it waits again."""
    for _ in range(30):
        await asyncio.sleep(0)
