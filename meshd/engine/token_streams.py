"""Live streams of token holders: ended when their token is revoked or runs out.

Invariant: a stream is in the set exactly while its block runs. Ending works like ``asyncio.timeout``: the stream's
own task is cancelled and the cancellation becomes a refusal where the block ends. Deadlines are kept on the monotonic
clock from the moment the token was shown, so jumps of the wall clock end no stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from meshd.domain.access import Call, Principal
from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import token_expired

EXPIRY_GRACE_MS: Final = 30_000
"""How long a stream outlives its token, so that a fresh one can be sent in time."""


ASK_BEFORE_MS: Final = 60_000
"""How long before its token runs out the other side of a stream is asked for a fresh one."""

Ask = Callable[[int], None]
"""Asks for a fresh token; takes the wall time in milliseconds at which the stream ends without one."""


class TokenStream:
    """One stream that its caller's token keeps open; a context manager around its handling."""

    def __init__(self, streams: TokenStreams, call: Call) -> None:
        self.call = call
        self._streams = streams
        self._task: asyncio.Task[object] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._ask: Ask | None = None
        self._ended: Refusal | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._streams.add(self)
        self.call.stream = self
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.discard(self)
        self._cancel_timers()
        task, self._task = self._task, None
        # Else the call, its task and this would hold each other until everything is searched for garbage.
        self.call.stream = None
        if self._ended is None:
            return
        if kind is asyncio.CancelledError:
            assert task is not None
            task.uncancel()
            raise self._ended from error
        if kind is None:
            raise self._ended

    def ask_by(self, ask: Ask) -> None:
        """Have the other side asked for a fresh token in time, now and after each fresh one."""
        self._ask = ask
        self.arm()

    def arm(self) -> None:
        """Set the times at which a fresh token is asked for and the stream ends, from its token."""
        self._cancel_timers()
        expire_ms = self.call.principal.expire_ms
        if not expire_ms:
            return
        call_later = asyncio.get_running_loop().call_later
        left_ms = expire_ms - self._streams.wall_ms()
        end_in_s = max(0, left_ms + EXPIRY_GRACE_MS) / 1_000
        self._timers.append(call_later(end_in_s, self.end, expired(self.call.principal)))
        if self._ask is not None:
            ask_in_s = max(0, left_ms - ASK_BEFORE_MS) / 1_000
            self._timers.append(call_later(ask_in_s, self._ask, expire_ms + EXPIRY_GRACE_MS))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def end(self, refusal: Refusal) -> None:
        """End the stream by this refusal; the first one counts."""
        if self._ended is None:
            self._ended = refusal
            assert self._task is not None
            self._task.cancel()


class TokenStreams:
    """All live streams."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self.wall_ms = wall_ms
        self._live: set[TokenStream] = set()

    def add(self, stream: TokenStream) -> None:
        """A stream begins; for its own block."""
        self._live.add(stream)

    def discard(self, stream: TokenStream) -> None:
        """A stream is over; for its own block."""
        self._live.discard(stream)

    def end_where(self, revoked: Callable[[Principal], bool]) -> list[Call]:
        """End the streams of these principals; returns their calls."""
        concerned = [stream for stream in self._live if revoked(stream.call.principal)]
        for stream in concerned:
            stream.end(
                Refusal(Reason.TOKEN_REVOKED, "the token of this stream was revoked; join again to go on")
            )
        return [stream.call for stream in concerned]

    def __len__(self) -> int:
        return len(self._live)


def expired(principal: Principal) -> Refusal:
    """Return the refusal of a token that has run out."""
    return token_expired(for_operator=principal.kind == "operator")
