"""Calls that last, counted by connection: streams, waits and watches take the places that a connection has for calls.

Rule: when they have taken all of them, whatever else the client calls waits at the client, without a word. Somebody must
say so, and only the server can: of one connection in a minute, so that no peer fills the log by opening new ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

REPORT_INTERVAL_S: Final = 60.0
LASTING: Final = frozenset({"WaitTask", "WaitAgentsIdle"})
"""Unary methods that are answered when something happens; every stream lasts."""


class HeldCalls:
    """Counts the lasting calls of each connection."""

    def __init__(self, places: int, report_full: Callable[[str, int], None]) -> None:
        self._places = places
        self._report_full = report_full
        self._held: Counter[str] = Counter()
        self._next_report_mono = 0.0

    @contextmanager
    def on(self, peer: str) -> Iterator[None]:
        """Count a call on the connection of a peer while it lasts. Peers of a Unix socket cannot be told apart."""
        if peer.startswith("unix:"):
            yield
            return
        self._held[peer] += 1
        if self._held[peer] == self._places and time.monotonic() >= self._next_report_mono:
            self._next_report_mono = time.monotonic() + REPORT_INTERVAL_S
            self._report_full(peer, self._places)
        try:
            yield
        finally:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]
