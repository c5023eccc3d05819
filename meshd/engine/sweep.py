"""Looks which sessions are silent, every quarter of a second; the mesh then judges those.

Rule: a look at ten thousand sessions takes 10 to 20 ms, so it is taken some at a time, and others have their turn between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from meshd.domain.liveness import silent
from meshd.domain.values import Session

INTERVAL_S: Final = 0.25
LOOKED_AT_ONCE = 1_000
"""Sessions that are looked at in one go: a millisecond or two."""


class Sweep:
    """Comes again until it is stopped, or has nothing to go on for."""

    def __init__(
        self,
        sessions: Callable[[], Iterator[Session]],
        judge: Callable[[list[Session], int], None],
        goes_on: Callable[[], bool],
    ) -> None:
        """``judge`` is given the silent sessions and the number of all."""
        self._loop = asyncio.get_running_loop()
        self._sessions = sessions
        self._judge = judge
        self._goes_on = goes_on
        self._next: asyncio.Handle = self._loop.call_later(INTERVAL_S, self.begin)

    def begin(self) -> None:
        """Look at all sessions there are."""
        self._look(list(self._sessions()), 0, [])

    def stop(self) -> None:
        """Do not come again."""
        self._next.cancel()

    def _look(self, sessions: list[Session], start: int, quiet: list[Session]) -> None:
        if not self._goes_on():
            return
        end = start + LOOKED_AT_ONCE
        quiet += silent(sessions[start:end], time.monotonic())
        if end < len(sessions):
            self._next = self._loop.call_soon(self._look, sessions, end, quiet)
            return
        self._next = self._loop.call_later(INTERVAL_S, self.begin)
        # Who has spoken meanwhile is judged anew; some may be gone.
        self._judge([s for s in quiet if s.agent.session is s], len(sessions))
