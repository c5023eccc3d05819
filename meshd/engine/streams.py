"""Streams of agents: the outbox of frames that wait to be written.

Invariant: frames leave in the order in which they were let out; what collects while a write is under way leaves
together with the next one. An outbox is bounded by the session's slots and by what the agent itself sends.
"""

from __future__ import annotations

import asyncio

from meshd.domain.frames import DownFrame
from meshd.domain.state import Namespace
from meshd.domain.values import Session


class AgentStream:
    """One open Work or Heartbeat stream."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.session: Session | None = None
        """Set once the stream is open."""
        self._outbox: list[DownFrame] = []
        self._wake = asyncio.Event()
        self._closing = False

    def push(self, frame: DownFrame) -> None:
        """Add a frame to be written; ignored once the stream is closing."""
        if not self._closing:
            self._outbox.append(frame)
            self._wake.set()

    def close(self) -> None:
        """End the stream after what is in the outbox."""
        self._closing = True
        self._wake.set()

    async def take(self) -> list[DownFrame]:
        """Wait for frames and take them all; an empty list means that the stream is to end."""
        while not self._outbox and not self._closing:
            self._wake.clear()
            await self._wake.wait()
        frames, self._outbox = self._outbox, []
        return frames
