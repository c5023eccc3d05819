"""Streams of agents: the outbox of frames that wait to be written.

Invariant: frames leave in the order in which they were let out; what collects while a write is under way leaves
together with the next one. What waits is bounded by what an agent that reads can have outstanding: a stream beyond
that ends, whatever its peer does, and so does one that is closed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import DownFrame
from meshd.domain.limits import MAX_MESSAGE_FRAMES, MAX_SLOTS
from meshd.domain.state import Namespace
from meshd.domain.values import Session

FRAMES_PER_SLOT: Final = 4
"""An attempt of which nothing was read yet can be assigned, cancelled and voided, and its report acknowledged."""
FRAMES_BESIDES: Final = 2 * MAX_MESSAGE_FRAMES
"""The answers to two messages about attempts that the session no longer holds; also drains and signs of life."""
CLOSE_S: Final = 1.0
"""Time to write what is in the outbox of a stream that was closed."""
RETRY_MS: Final = 100
"""Well within the time after which a session without a stream is lost."""


class AgentStream:
    """One open Work or Heartbeat stream."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.session: Session | None = None
        """Set once the stream is open."""
        self.writer: asyncio.Task[Any] | None = None
        """What takes from the outbox; cancelled when the stream must not wait for its peer."""
        self.refusal: Refusal | None = None
        """Why the stream ends, when its peer does not read."""
        self._outbox: list[DownFrame] = []
        self._wake = asyncio.Event()
        self._closing = False

    def push(self, frame: DownFrame) -> None:
        """Add a frame to be written; ignored once the stream is closing."""
        if self._closing:
            return
        if len(self._outbox) >= FRAMES_BESIDES and len(self._outbox) >= self._most_frames():
            self._give_up()
            return
        self._outbox.append(frame)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is in the outbox, or a moment later if that cannot be written."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        if self.writer is not None:
            asyncio.get_running_loop().call_later(CLOSE_S, self.writer.cancel)

    async def take(self) -> list[DownFrame]:
        """Wait for frames and take them all; an empty list means that the stream is to end."""
        while not self._outbox and not self._closing:
            self._wake.clear()
            await self._wake.wait()
        frames, self._outbox = self._outbox, []
        return frames

    def _most_frames(self) -> int:
        slots = MAX_SLOTS if self.session is None else max(self.session.slots, self.session.agent.spec.slots)
        return FRAMES_BESIDES + FRAMES_PER_SLOT * slots

    def _give_up(self) -> None:
        self.refusal = Refusal(
            Reason.OVERLOADED,
            f"{len(self._outbox)} frames wait to be read on this stream; read it while you send, and open another",
            retry_ms=RETRY_MS,
        )
        self._outbox.clear()
        self._closing = True
        self._wake.set()
        if self.writer is not None:
            self.writer.cancel()
