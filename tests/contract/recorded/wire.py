"""Calls in bytes: no stub of this checkout takes part in what is replayed."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

TIMEOUT_S = 20.0


class Wire:
    """A channel to the operator socket, used by the local operator and by an agent with its token."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.token = ""
        """The agent's, once it has one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(self, method: str, request: bytes, *, as_agent: bool) -> bytes:
        """One unary call."""
        unary: Any = self._channel.unary_unary(method)
        response: bytes = unary(request, timeout=TIMEOUT_S, metadata=self._metadata(as_agent=as_agent))
        return response

    def stream(self, method: str) -> Stream:
        """A stream in both directions, of the agent."""
        return Stream(self._channel.stream_stream(method), self._metadata(as_agent=True))

    def _metadata(self, *, as_agent: bool) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if as_agent else ()


class Stream:
    """Messages go out as they are sent, and come in one by one."""

    def __init__(self, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = method(self._requests(), timeout=TIMEOUT_S, metadata=metadata)

    def send(self, message: bytes) -> None:
        """Send one message."""
        self._outgoing.put(message)

    def receive(self) -> bytes:
        """Return the next message. Raises StopIteration when the daemon ended the stream, grpc.RpcError on failure."""
        message: bytes = next(self._call)
        return message

    def close(self) -> None:
        """Send nothing more, and let go of the call."""
        self._outgoing.put(None)
        self._call.cancel()

    def _requests(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message
