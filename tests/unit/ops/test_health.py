"""grpc.health.v1: all services serve or none does, and nobody can hold up a change."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshd.wire.services.health import HealthService

pytestmark = pytest.mark.anyio

Reply = health_pb2.HealthCheckResponse
NAMES = ["agentmesh.v1.RegistryService", "agentmesh.v1.SchedulerService"]


@pytest.fixture
def health() -> HealthService:
    return HealthService(NAMES)


@pytest.fixture
async def stub(health: HealthService) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


def ask(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_check_knows_the_daemon_and_each_service(health: HealthService, stub: Any) -> None:
    for name in ["", *NAMES]:
        assert (await stub.Check(ask(name))).status == Reply.NOT_SERVING
    health.set_serving(True)
    for name in ["", *NAMES]:
        assert (await stub.Check(ask(name))).status == Reply.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(ask("no.Such"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_sends_changes_only(health: HealthService, stub: Any) -> None:
    call = stub.Watch(ask(NAMES[0]))
    try:
        assert (await call.read()).status == Reply.NOT_SERVING
        health.set_serving(True)
        assert (await call.read()).status == Reply.SERVING
        health.set_serving(True)
        health.set_serving(False)
        assert (await call.read()).status == Reply.NOT_SERVING
    finally:
        call.cancel()


async def test_watch_of_an_unknown_service_says_so_and_stays(stub: Any) -> None:
    call = stub.Watch(ask("no.Such"))
    try:
        assert (await call.read()).status == Reply.SERVICE_UNKNOWN
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), 0.2)
    finally:
        call.cancel()


async def test_a_watcher_that_reads_nothing_holds_nobody_up(health: HealthService, stub: Any) -> None:
    calls = [stub.Watch(ask()) for _ in range(20)]
    try:
        await asyncio.gather(*(call.read() for call in calls))
        for number in range(1_000):
            health.set_serving(number % 2 == 0)
        assert (await stub.Check(ask(), timeout=1)).status == Reply.NOT_SERVING
    finally:
        for call in calls:
            call.cancel()
