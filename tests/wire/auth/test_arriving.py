"""Requests that do not come, or late: strangers need send none to be refused, and nobody is waited for for ever."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from agentmesh.v1 import scheduler_service_pb2 as pb
from agentmesh.v1 import scheduler_service_pb2_grpc as pb_grpc
from meshd.domain.values import AgentType
from meshd.engine.authority import Target
from tests.wire.auth.conftest import House, bearer, failure

pytestmark = pytest.mark.anyio
CODE = grpc.StatusCode
GET = "/agentmesh.v1.SchedulerService/GetTask"
WATCH = "/agentmesh.v1.SchedulerService/WatchTask"


async def taken(house: House) -> None:
    """Wait until meshd has taken one call."""
    for _ in range(1_000):
        if house.admission.in_work:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no call came")


@pytest.mark.parametrize("path", [GET, WATCH])
async def test_a_stranger_is_refused_before_a_byte_of_the_request_came(house: House, path: str) -> None:
    call: Any = house.tcp.stream_unary(path)()
    caught = await failure(asyncio.wait_for(call, 10))
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_MISSING")
    bad: Any = house.tcp.stream_unary(path)(metadata=bearer("a.b.c"))
    assert (await failure(asyncio.wait_for(bad, 10))).reason == "TOKEN_INVALID"


@pytest.mark.parametrize("path", [GET, WATCH])
async def test_a_request_that_does_not_come_in_time_ends_its_call(
    house: House, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("meshd.wire.arriving.RECEIVE_S", 0.1)
    metadata = bearer(await house.token())
    first: Any = house.tcp.stream_unary(path)(metadata=metadata)
    second: Any = house.tcp.stream_unary(path)(metadata=metadata)
    for call in (first, second):
        caught = await failure(asyncio.wait_for(call, 10))
        assert (caught.code, caught.reason) == (CODE.DEADLINE_EXCEEDED, "WAIT_TIMEOUT")
        assert "0.1 s" in caught.text
    await pb_grpc.SchedulerServiceStub(house.tcp).GetTask(pb.GetTaskRequest(), metadata=metadata)
    assert house.incidents == []
    assert house.admission.in_work == 0


async def test_a_call_that_ends_without_its_message_is_told_so(house: House) -> None:
    call: Any = house.socket.stream_unary(GET)()
    await call.done_writing()
    caught = await failure(asyncio.wait_for(call, 10))
    assert (caught.code, caught.reason) == (CODE.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_who_leaves_before_the_message_is_no_incident(house: House) -> None:
    call: Any = house.socket.stream_unary(GET)()
    await taken(house)
    call.cancel()
    ((method, code),) = await house.observer.measured(1)
    assert method == "GetTask"
    # gRPC tells of the end of messages first, or of the end of the call.
    assert code in ("CANCELLED", "INVALID_ARGUMENT")
    assert house.incidents == []


async def test_a_token_that_is_revoked_while_the_request_is_on_its_way_opens_no_stream(house: House) -> None:
    metadata = bearer(await house.token(AgentType.WORKER))
    call: Any = house.tcp.stream_stream(WATCH)(metadata=metadata)
    await taken(house)
    await house.world.authority.revoke(house.world.call(), "blue", Target(agent_id="a-1"), "")
    await call.write(pb.WatchTaskRequest().SerializeToString())
    caught = await failure(asyncio.wait_for(call.read(), 10))
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_REVOKED")
