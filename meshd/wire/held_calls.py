"""Calls that last, counted by connection: streams, waits and watches take the places that a connection has for calls.

Rule: when they have taken all of them, whatever else the client calls waits at the client, without a word. Somebody must
say so, and only the server can: once for a connection, until it holds no such call any more, so that no peer fills the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LASTING: Final = frozenset({"WaitTask", "WaitAgentsIdle"})
"""Unary methods that are answered when something happens; every stream lasts."""


class HeldCalls:
    """Counts the lasting calls of each connection."""

    def __init__(self, places: int, report_full: Callable[[str, int], None]) -> None:
        self._places = places
        self._report_full = report_full
        self._held: Counter[str] = Counter()
        self._reported: set[str] = set()

    @contextmanager
    def on(self, peer: str) -> Iterator[None]:
        """Count a call on the connection of a peer while it lasts. Peers of a Unix socket cannot be told apart."""
        if peer.startswith("unix:"):
            yield
            return
        self._held[peer] += 1
        if self._held[peer] == self._places and peer not in self._reported:
            self._reported.add(peer)
            self._report_full(peer, self._places)
        try:
            yield
        finally:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]
                self._reported.discard(peer)
