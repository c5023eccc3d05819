"""How many calls the core lets wait for a loop that does not come to them: the bound on the memory of a flood."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshd.wire import server as wire
from meshd.wire.services.health import HealthService

pytestmark = pytest.mark.anyio

PENDING = 8
CONNECTIONS, CALLS_EACH = 4, 16
IN_HAND = 2
"""The call that the loop has asked the core for already, and the one at which the core sees that there are too many."""
REQUEST = health_pb2.HealthCheckRequest()


async def test_no_more_calls_wait_than_the_bound_and_those_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "PENDING_CALLS", PENDING)
    server = wire.new_server([], keepalive_ms=10_000, max_calls_per_connection=CALLS_EACH)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(()), server)
    address = wire.listen_tcp(server, "127.0.0.1:0", None)
    await server.start()
    with ExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(address, own)) for _ in range(CONNECTIONS)]
        stubs: list[Any] = [health_pb2_grpc.HealthStub(channel) for channel in channels]
        for stub in stubs:
            await asyncio.to_thread(stub.Check, REQUEST, timeout=10)
        # From here to the next await the loop takes no call.
        calls = [stub.Check.future(REQUEST, timeout=60) for stub in stubs for _ in range(CALLS_EACH)]
        ended: SimpleQueue[Any] = SimpleQueue()
        for call in calls:
            call.add_done_callback(ended.put)
        for _ in range(len(calls) - PENDING - IN_HAND):
            ended.get(timeout=10)
        codes = [await asyncio.to_thread(call.code) for call in calls]
    assert codes.count(grpc.StatusCode.OK) == PENDING + IN_HAND
    assert codes.count(grpc.StatusCode.CANCELLED) == len(calls) - PENDING - IN_HAND
    await server.stop(0)
