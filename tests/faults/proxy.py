"""A TCP proxy that holds back or cuts what goes through it: half-open, one-way and broken connections without a kernel.

A direction that is held delivers nothing until it is let go, and then everything, as TCP does after an outage. New
connections are taken meanwhile and held as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536


class Direction(Enum):
    """Seen from the agent, who opens the connections."""

    UP = "up"
    DOWN = "down"


BOTH = (Direction.UP, Direction.DOWN)


class Proxy:
    """Forwards a port of its own to `target`. Use it as an async context manager."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._open = {direction: asyncio.Event() for direction in Direction}
        self._writers: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self.let_go()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=4_096)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._forwarding:
            task.cancel()
        await asyncio.gather(*self._forwarding)

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return len(self._writers) // 2

    def hold(self, directions: Iterable[Direction] = BOTH) -> None:
        """Deliver nothing in these directions until `let_go`."""
        for direction in directions:
            self._open[direction].clear()

    def let_go(self) -> None:
        """Deliver again, what was held first."""
        for gate in self._open.values():
            gate.set()

    def cut(self) -> None:
        """Break every connection at once, with a reset to both sides."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding = asyncio.create_task(self._forward(reader, writer))
        self._forwarding.add(forwarding)
        forwarding.add_done_callback(self._forwarding.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        pumps: list[asyncio.Task[None]] = []
        with suppress(OSError, asyncio.CancelledError):
            try:
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                ends.add(far_writer)
                self._writers |= ends
                pumps += [
                    asyncio.create_task(self._pump(reader, far_writer, self._open[Direction.UP])),
                    asyncio.create_task(self._pump(far_reader, writer, self._open[Direction.DOWN])),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                self._writers -= ends
                for end in ends:
                    end.transport.abort()
                await asyncio.gather(*pumps, *(end.wait_closed() for end in ends), return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await gate.wait()
                writer.write(data)
                await writer.drain()
            await gate.wait()  # the end of a connection does not get through either
