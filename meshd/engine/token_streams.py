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


class TokenStream:
    """One stream that its caller's token keeps open; a context manager around its handling."""

    def __init__(self, streams: TokenStreams, call: Call) -> None:
        self.call = call
        self._streams = streams
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
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
        if self._timer is not None:
            self._timer.cancel()
        if self._ended is None:
            return
        if kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            raise self._ended from error
        if kind is None:
            raise self._ended

    def arm(self) -> None:
        """Set the time at which the stream ends, from its token."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        expire_ms = self.call.principal.expire_ms
        if expire_ms:
            left_ms = expire_ms - self._streams.wall_ms() + EXPIRY_GRACE_MS
            self._timer = asyncio.get_running_loop().call_later(
                max(0, left_ms) / 1_000, self.end, expired(self.call.principal)
            )

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

    def end_where(self, revoked: Callable[[Principal], bool]) -> int:
        """End the streams of these principals; returns how many."""
        concerned = [stream for stream in self._live if revoked(stream.call.principal)]
        for stream in concerned:
            stream.end(
                Refusal(Reason.TOKEN_REVOKED, "the token of this stream was revoked; join again to go on")
            )
        return len(concerned)

    def __len__(self) -> int:
        return len(self._live)


def expired(principal: Principal) -> Refusal:
    """Return the refusal of a token that has run out."""
    return token_expired(for_operator=principal.kind == "operator")
