"""Unary calls that outlive a restart of the daemon, made on the gRPC thread.

Rule: a call is repeated only when repeating it is safe, which every method of the contract is that the SDK sends
through here (submits carry an id chosen by the client), and only while its own deadline lasts. A CANCELLED that came
over the wire counts as unreachable: an overloaded daemon sheds calls that way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

import grpc
import grpc.aio

from agentmesh.backoff import Backoff, Clock, SystemClock
from agentmesh.connection import CALL_CONNECTIONS, HELD_CONNECTIONS, Target, call_metadata, open_channel
from agentmesh.errors import MeshError, Overloaded, Refused, Unreachable, from_rpc_error

Q = TypeVar("Q")
R = TypeVar("R")

#: Longest wait for the answer to one try.
TRY_TIMEOUT_S = 10.0
#: Calls under way at once, of those that the daemon does not hold open: as many as fit on their connections. Were more
#: given to gRPC, they would wait there with their time running, and reach an overloaded daemon with none left.
CALLS_AT_ONCE = 16 * CALL_CONNECTIONS
#: One call that waits; longer waits are a row of them.
WAIT_SLICE_S = 60.0
#: Waiting without a timeout outlives any absence of the daemon.
FOREVER_S = 1e12


class Caller:
    """The channels and how calls are made over them. All coroutines run on the gRPC thread.

    Calls that the daemon holds open have a channel of their own, so that a thousand waits leave room for a submit.
    """

    def __init__(
        self,
        target: Target,
        token: str | Callable[[], str | None] | None,
        *,
        retry_for_s: float,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._target = target
        self._token = token
        self._retry_for_s = retry_for_s
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._channels: dict[bool, grpc.aio.Channel] = {}
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)

    def channel(self, *, held: bool = False) -> grpc.aio.Channel:
        """The channel for such calls, opened with the first: `held` are those that wait or watch."""
        channel = self._channels.get(held)
        if channel is None:
            channel = self._channels[held] = open_channel(
                self._target, connections=HELD_CONNECTIONS if held else CALL_CONNECTIONS
            )
        return channel

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata for the next call."""
        token = self._token
        # A function may ask a vault, or the mesh itself: here it would hold up the beats of every agent of the process.
        return call_metadata(await asyncio.to_thread(token) if callable(token) else token)

    def deadline_s(self, retry_for_s: float | None = None) -> float:
        """Until when retries of a call that starts now may go on, on this caller's clock."""
        return self._clock.monotonic() + (self._retry_for_s if retry_for_s is None else retry_for_s)

    def backoff(self) -> Backoff:
        """Fresh pauses for one call."""
        return Backoff(self._rng)

    async def call(
        self,
        method: Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[Q, R]],
        request: Q,
        *,
        deadline_s: float | None = None,
        timeout_s: float = TRY_TIMEOUT_S,
        held: bool = False,
    ) -> R:
        """Calls until an answer comes or `deadline_s` is over; the last error is raised then.

        The first try is always made, and may take `timeout_s`; but while as many calls as may be are under way, none begins,
        and Overloaded is raised when that lasts. `held` is for a call that the daemon answers when something happens.
        """
        deadline_s = self.deadline_s() if deadline_s is None else deadline_s
        backoff = self.backoff()
        while True:
            try:
                patience_s = max(timeout_s, deadline_s - self._clock.monotonic())
                async with nullcontext() if held else self._place(patience_s):
                    stub = method(self.channel(held=held))
                    return await stub(request, timeout=timeout_s, metadata=await self.metadata())
            except grpc.aio.AioRpcError as error:
                await self.pause_or_raise(from_rpc_error(error), backoff, deadline_s)

    @asynccontextmanager
    async def _place(self, patience_s: float) -> AsyncIterator[None]:
        """Waits for a turn among the calls of this client."""
        try:
            async with asyncio.timeout(patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(
                f"{CALLS_AT_ONCE} calls of this client are under way, and {patience_s:.1f} s were not enough for those before"
                " this one; make fewer at once, or submit many tasks by one call (submit_many)",
                reason="OVERLOADED",
            ) from None
        try:
            yield
        finally:
            self._places.release()

    async def pause_or_raise(self, error: MeshError, backoff: Backoff, deadline_s: float) -> None:
        """Pauses before the next try; raises `error` when trying again is pointless or the time is over."""
        if isinstance(error, Unreachable):
            pause_s = backoff.next_pause_s()
        elif isinstance(error, Refused) and error.retry_after_s is not None:
            pause_s = error.retry_after_s + backoff.next_pause_s()
        else:
            raise error
        if self._clock.monotonic() + pause_s >= deadline_s:
            raise error
        await self._clock.sleep(pause_s)

    async def sleep(self, seconds: float) -> None:
        """Pauses on this caller's clock."""
        await self._clock.sleep(seconds)

    async def close(self) -> None:
        """Closes the channels; calls in flight end."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await asyncio.shield(channel.close())
