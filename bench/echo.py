"""The yardstick: bare grpc.aio calls and streams on uvloop that answer with what they got; no interceptor, no disk.

`python -m bench.echo serve ADDRESS` serves; `python -m bench.echo load ADDRESS SHAPE COUNT ITEMS IN_FLIGHT` prints
`ready` and then the items per second. The shape is `call` (each carries that many task specs) or `stream` (each
message does); a call sends a token as long as a real one, a stream sends it once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from agentmesh.v1 import scheduler_service_pb2
from bench.load import spec_of

SERVICE = "bench.Echo"
METADATA = (("authorization", "Bearer " + "x" * 600),)
Message = scheduler_service_pb2.SubmitTasksRequest


async def serve(address: str) -> None:
    """Answer every message by itself."""

    async def call(request: Any, _context: Any) -> Any:
        return request

    async def stream(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    codec = (Message.FromString, Message.SerializeToString)
    handlers: Any = {
        "Call": grpc.unary_unary_rpc_method_handler(call, *codec),
        "Stream": grpc.stream_stream_rpc_method_handler(stream, *codec),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def calls(channel: grpc.aio.Channel, request: Any, count: int, in_flight: int) -> None:
    """Make so many calls, some of them at a time."""
    call: Any = channel.unary_unary(f"/{SERVICE}/Call", Message.SerializeToString, Message.FromString)
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call(request, metadata=METADATA, wait_for_ready=True)

    await asyncio.gather(*(caller() for _ in range(in_flight)))


async def stream(channel: grpc.aio.Channel, request: Any, count: int, in_flight: int) -> None:
    """Send so many messages over one stream, some of them unanswered at a time."""
    open_stream: Any = channel.stream_stream(
        f"/{SERVICE}/Stream", Message.SerializeToString, Message.FromString
    )
    call = open_stream(metadata=METADATA)
    room = asyncio.Semaphore(in_flight)

    async def write() -> None:
        for _ in range(count):
            await room.acquire()
            await call.write(request)
        await call.done_writing()

    writing = asyncio.create_task(write())
    while await call.read() is not grpc.aio.EOF:
        room.release()
    await writing


async def load(address: str, shape: str, count: int, items: int, in_flight: int) -> None:
    """Measure one shape."""
    run = {"call": calls, "stream": stream}[shape]
    request = Message(specs=[spec_of(f"0123456789abcdef-{n}") for n in range(items)])
    async with grpc.aio.insecure_channel(address) as channel:
        await run(channel, request, 1, 1)
        print("ready", flush=True)  # the parent reads the server's processor time now
        begin = time.monotonic()
        await run(channel, request, count, in_flight)
        print(count * items / (time.monotonic() - begin), flush=True)


if __name__ == "__main__":
    role, where, *rest = sys.argv[1:]
    if role == "serve":
        uvloop.run(serve(where))
    else:
        asyncio.run(load(where, rest[0], *map(int, rest[1:])))
