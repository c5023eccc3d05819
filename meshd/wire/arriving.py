"""Requests of one message: read once their caller is known, and within a limit of time.

Rule: nothing of a request is read before the caller's token is good. Who then sends it slowly, or never to its end, takes
up to 1 MiB of memory and a place on its connection, for no longer than RECEIVE_S. One timer watches all of them: a timer
for each would cost every call more than the rest of this.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc.aio

from meshd.domain.errors import Reason, Refusal

RECEIVE_S: Final = 10.0


class Arriving:
    """The requests that are on their way."""

    def __init__(self) -> None:
        self._begun: dict[asyncio.Task[Any], float] = {}
        """Since when each handler waits for its request, the longest first."""
        self._timer: asyncio.TimerHandle | None = None

    async def request(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Return the one message of a call. Raises Refusal when there is none, or not in time."""
        handler = asyncio.current_task()
        assert handler is not None
        self._begun[handler] = time.monotonic()
        if self._timer is None:
            self._arm(RECEIVE_S)
        try:
            raw: Any = await context.read()
        except asyncio.CancelledError:
            if handler in self._begun:
                raise  # by the caller
            handler.uncancel()
            message = (
                f"the request did not arrive within {RECEIVE_S:g} s of its call; send it again, all at once"
            )
            raise Refusal(Reason.WAIT_TIMEOUT, message) from None
        finally:
            self._begun.pop(handler, None)
        if raw is grpc.aio.EOF:
            raise Refusal(Reason.INVALID_ARGUMENT, "the call ended without a message; send one")
        return bytes(raw)

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_late)

    def _end_late(self) -> None:
        self._timer = None
        now_mono = time.monotonic()
        for handler, begin_mono in list(self._begun.items()):
            left_s = begin_mono + RECEIVE_S - now_mono
            if left_s > 0:
                self._arm(left_s)
                return
            del self._begun[handler]
            handler.cancel()
