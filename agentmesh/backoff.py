"""Time and pauses: a clock that tests can replace, and full-jitter backoff.

Rule: code that decides when to try again takes a `Clock` and a `random.Random` from its caller and reads no other time.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

MAX_PAUSE_S = 1.0
_FIRST_PAUSE_S = 0.1


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`."""
        ...


class SystemClock:
    """The clock of this host."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Backoff:
    """Pauses between attempts: a random part of 0.1 s, 0.2 s, 0.4 s ... up to `max_pause_s`."""

    def __init__(self, rng: random.Random, max_pause_s: float = MAX_PAUSE_S) -> None:
        self.max_pause_s = max_pause_s
        self._rng = rng
        self._failures = 0

    def next_pause_s(self) -> float:
        """The pause before the next attempt."""
        ceiling_s = min(self.max_pause_s, _FIRST_PAUSE_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """The last attempt succeeded: start small again."""
        self._failures = 0
