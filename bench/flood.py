"""A flood of calls, as a process of its own: far more calls a second than a gRPC client of Python can make.

It speaks just enough HTTP/2 for this: requests are put together from prepared bytes, and of a reply only its status is
read. Each request says how much of its time is left, as that of every gRPC client with a deadline. Open loop (`--rate`): calls arrive on time whatever becomes of the others, wait in this process while their
connection has no free stream, as every gRPC client has them do, and end at their deadline wherever they are, or with
`--clock-from-send`, as the SDK has it, that long after they were sent. Closed loop
(`--in-flight`): the next call begins when one ends. Nothing is tried again. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import uvloop

from agentmesh.v1 import scheduler_service_pb2
from bench.load import percentiles_ms, spec_of

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
REFUSED_STREAM: Final = 7
MAX_FRAME_BYTES: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1
STATUS: Final = re.compile(rb"grpc-status.(\d+)", re.DOTALL)
NAMES: Final = {0: "OK", 1: "CANCELLED", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}
PLACE: Final = "0123456789abcdef"
TICK_S: Final = 0.001


TIMEOUT: Final = b"\x00\x0cgrpc-timeout"
"""A header that the peer does not remember; its value follows."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def text(value: bytes) -> bytes:
    """Return a string of HPACK, not compressed."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    size -= 127
    rest = bytearray()
    while size >= 128:
        rest.append(size & 127 | 128)
        size >>= 7
    rest.append(size)
    return b"\x7f" + bytes(rest) + value


def header_blocks(path: str, token: str) -> tuple[bytes, bytes]:
    """Return the headers of a connection's first call, which the peer remembers, and of every later one."""
    fields = [
        (b":path", path.encode()),
        (b":authority", b"flood"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"authorization", b"Bearer " + token.encode()),
    ]
    first = b"\x83\x86" + b"".join(b"\x40" + text(name) + text(value) for name, value in fields)
    later = b"\x83\x86" + bytes(0x80 | 62 + n for n in reversed(range(len(fields))))
    return first, later


class Messages:
    """Makes the bytes of one request after the other, each with task ids of its own."""

    def __init__(self, batch: int) -> None:
        if batch == 1:
            self.path = "/agentmesh.v1.SchedulerService/SubmitTask"
            message: Any = scheduler_service_pb2.SubmitTaskRequest(spec=spec_of(PLACE))
        else:
            self.path = "/agentmesh.v1.SchedulerService/SubmitTasks"
            message = scheduler_service_pb2.SubmitTasksRequest(specs=[spec_of(PLACE)] * batch)
        encoded = message.SerializeToString()
        self._parts = (b"\0" + len(encoded).to_bytes(4) + encoded).split(PLACE.encode())
        self._prefix = secrets.token_hex(3)
        self._count = 0

    def __call__(self) -> bytes:
        """Return the next request, length-prefixed."""
        out = [self._parts[0]]
        for part in self._parts[1:]:
            self._count += 1
            out += (f"{self._prefix}{self._count:010d}".encode(), part)
        return b"".join(out)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection: its open calls, and those that wait for a free stream."""

    def __init__(
        self, blocks: tuple[bytes, bytes], message: Callable[[], bytes], ended: Any, options: Any
    ) -> None:
        self._first, self._later = blocks
        self._options = options
        self._message = message
        self._ended = ended
        self._buffer = b""
        self._next_stream = 1
        self._max_streams = 100
        self._window = 65_535
        self.open: dict[int, float] = {}
        self.waiting: deque[float] = deque()
        self.ready = asyncio.Event()
        self.alive = True

    def connection_made(self, transport: Any) -> None:
        """Greet: no header table and no Huffman code in replies, binary values as they are, and endless windows."""
        self._transport = transport
        settings = b"".join(struct.pack(">HI", *pair) for pair in ((1, 0), (4, MAX_WINDOW), (0xFE03, 1)))
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW, 0, 0, (MAX_WINDOW - 65_535).to_bytes(4))
        )

    def connection_lost(self, _exc: Exception | None) -> None:
        """End what was open."""
        self.alive = False
        for stream in list(self.open):
            self._end(stream, "CONNECTION LOST")

    def call(self, arrived: float) -> None:
        """Make a call now, or as soon as there is a stream for it."""
        if self.waiting or not self._start(arrived):
            self.waiting.append(arrived)

    def expire(self, before: float) -> None:
        """End the calls that arrived before."""
        while self.waiting and self.waiting[0] < before:
            self._ended("NEVER SENT", self.waiting.popleft())
        expired = []
        for stream, arrived in self.open.items():
            if arrived >= before:
                break
            expired.append(stream)
        for stream in expired:
            self._transport.write(frame(RESET, 0, stream, (8).to_bytes(4)))
            self._end(stream, "DEADLINE_EXCEEDED")

    def _start(self, arrived: float) -> bool:
        if len(self.open) >= self._max_streams or not self.alive:
            return False
        message = self._message()
        if self._window < len(message):
            return False
        now = time.monotonic()
        if self._options.clock_from_send:
            arrived = now
        left_ms = int((arrived + self._options.timeout - now) * 1000)
        self._window -= len(message)
        stream, block = self._next_stream, self._later if self._next_stream > 1 else self._first
        block += TIMEOUT + text(b"%dm" % max(left_ms, 1))
        self._next_stream += 2
        self.open[stream] = arrived
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)
        )
        return True

    def _end(self, stream: int, status: str) -> None:
        arrived = self.open.pop(stream, None)
        if arrived is not None:
            self._ended(status, arrived)

    def data_received(self, data: bytes) -> None:
        """Read frames; then use the streams that became free."""
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while len(buffer) - at >= 9:
            head, flags, stream = struct.unpack_from(">IBI", buffer, at)
            end = at + 9 + (head >> 8)
            if len(buffer) < end:
                break
            self._frame(head & 255, flags, stream, buffer[at + 9 : end])
            at = end
        self._buffer = buffer[at:]
        while self.waiting and self._start(self.waiting[0]):
            self.waiting.popleft()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS and flags & END_STREAM:
            self._end(stream, status_of(payload))
        elif kind == RESET:
            code = int.from_bytes(payload)
            if code == REFUSED_STREAM and stream in self.open:
                self.waiting.appendleft(
                    self.open.pop(stream)
                )  # the server did not look at it: every client calls again
            else:
                self._end(stream, f"RESET {code}")
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 3:
                    self._max_streams = value
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
            self.ready.set()
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == GOAWAY:
            self.alive = False


def status_of(block: bytes) -> str:
    """Return the status in a block of trailers; a refusal that says when to come back is told from one that does not."""
    found = STATUS.search(block)
    code = int(found[1]) if found else -1
    name = NAMES.get(code, f"status {code}")
    return f"{name} + RetryInfo" if b"google.rpc.RetryInfo" in block else name


class Flood:
    """Counts how calls ended."""

    def __init__(self, options: argparse.Namespace, tokens: list[str]) -> None:
        message = Messages(options.batch)
        assert len(message()) <= MAX_FRAME_BYTES
        self._makers = [
            partial(
                Connection,
                header_blocks(message.path, tokens[n % len(tokens)]),
                message,
                self.ended,
                options,
            )
            for n in range(options.connections)
        ]
        self.connections: list[Connection] = []
        self.statuses: Counter[str] = Counter()
        self.ok_s: list[float] = []
        self.refused_s: list[float] = []
        self.offered = 0
        self.max_open = 0
        self._options = options
        self._closed_loop = options.in_flight > 0

    def ended(self, status: str, arrived: float) -> None:
        """Count one; in a closed loop the next one begins."""
        now = time.monotonic()
        self.statuses[status] += 1
        if status == "OK":
            self.ok_s.append(now - arrived)
        elif status.startswith("RESOURCE_EXHAUSTED"):
            self.refused_s.append(now - arrived)
        if self._closed_loop:
            self._arrive(now)

    def _arrive(self, now: float) -> None:
        self.offered += 1
        self.connections[self.offered % len(self.connections)].call(now)

    async def run(self) -> None:
        """Offer the load for the time it is to last; calls under way then are given up."""
        options = self._options
        loop = asyncio.get_running_loop()
        path = options.address.removeprefix("unix:")
        for make in self._makers:
            _, connection = await loop.create_unix_connection(make, path)
            await connection.ready.wait()
            self.connections.append(connection)
        begin = time.monotonic()
        for _ in range(options.in_flight):
            self._arrive(begin)
        while (now := time.monotonic()) < begin + options.seconds:
            if not self._closed_loop:
                for _ in range(int((now - begin) * options.rate) - self.offered):
                    self._arrive(now)
            for connection in self.connections:
                connection.expire(now - options.timeout)
            self.max_open = max(self.max_open, sum(len(c.open) for c in self.connections))
            await asyncio.sleep(TICK_S)
        self._closed_loop = False


async def main(options: argparse.Namespace) -> None:
    """Run the flood and print what became of it."""
    flood = Flood(options, sys.stdin.read().split())
    await flood.run()
    figures = {
        "seconds": options.seconds,
        "offered": flood.offered,
        "statuses": flood.statuses,
        "unsent": sum(len(c.waiting) for c in flood.connections),
        "max_open": flood.max_open,
        "ok_ms": percentiles_ms(flood.ok_s) if flood.ok_s else None,
        "refused_ms": percentiles_ms(flood.refused_s) if flood.refused_s else None,
    }
    print(json.dumps(figures), flush=True)


def parse() -> argparse.Namespace:
    """Return the options; tokens come on standard input, one a line, and connections take turns with them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second")
    parser.add_argument("--in-flight", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="tasks a call")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds until a call's deadline")
    parser.add_argument(
        "--clock-from-send", action="store_true", help="a call's time, and figures, begin when it is sent"
    )
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(parse()))
