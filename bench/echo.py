"""The yardstick: a bare grpc.aio unary echo on uvloop, and the load against it; same message, same metadata sent.

`python -m bench.echo serve ADDRESS` serves; `python -m bench.echo load ADDRESS CALLS IN_FLIGHT` prints calls per second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc
import grpc.aio
import uvloop

from agentmesh.v1 import scheduler_service_pb2
from bench.load import spec_of

PATH = "/bench.Echo/Echo"
TOKEN = "x" * 600
"""As long as a real one."""


async def serve(address: str) -> None:
    """Answer every call by its own request."""

    async def echo(request: Any, _context: Any) -> Any:
        return request

    message = scheduler_service_pb2.SubmitTaskRequest
    handler = grpc.unary_unary_rpc_method_handler(echo, message.FromString, message.SerializeToString)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def load(address: str, calls: int, in_flight: int) -> None:
    """Call with so many in flight and print the rate."""
    message = scheduler_service_pb2.SubmitTaskRequest
    channel = grpc.aio.insecure_channel(address)
    call: Any = channel.unary_unary(PATH, message.SerializeToString, message.FromString)
    request = message(spec=spec_of("0123456789abcdef"))
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await call(request, metadata=metadata)

    await call(request, metadata=metadata, wait_for_ready=True)
    begin = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    print(calls / (time.monotonic() - begin), flush=True)
    await channel.close()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "serve":
        uvloop.run(serve(arguments[0]))
    else:
        asyncio.run(load(arguments[0], int(arguments[1]), int(arguments[2])))
