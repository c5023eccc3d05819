"""The chain around streams: they end with their token, their iterators are closed, and their opening is audited."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from agentmesh.v1 import scheduler_service_pb2 as pb
from agentmesh.v1 import scheduler_service_pb2_grpc as pb_grpc
from agentmesh.v1 import session_pb2
from meshd.domain.values import AgentType
from meshd.engine.authority import Target
from tests.wire.auth.conftest import PLACES, House, bearer, failure

pytestmark = pytest.mark.anyio
CODE = grpc.StatusCode


def opening(namespace: str = "", agent_id: str = "a-1") -> pb.WorkRequest:
    frame = session_pb2.AgentFrame(open=session_pb2.Open(namespace=namespace, agent_id=agent_id))
    return pb.WorkRequest(frames=[frame])


async def work(house: House, token: str, first: pb.WorkRequest | None = None) -> Any:
    call = pb_grpc.SchedulerServiceStub(house.tcp).Work(metadata=bearer(token))
    await begin(call, first or opening())
    return call


async def begin(call: Any, first: pb.WorkRequest | bytes) -> None:
    # Who is refused while the message is still on its way is told so by the next read, too.
    with suppress(grpc.aio.AioRpcError):
        await call.write(first)


async def drain(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_revocation_ends_every_stream_within_a_second(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    other = await house.token(AgentType.WORKER, "a-2")
    streams = [await work(house, token) for _ in range(5)]
    for stream in streams:
        await stream.read()
    survivor = await work(house, other)
    await survivor.read()
    watch = pb_grpc.SchedulerServiceStub(house.tcp).WatchTask(pb.WatchTaskRequest(), metadata=bearer(token))
    await watch.read()
    start = time.monotonic()
    ended = await house.world.authority.revoke(house.world.call(), "blue", Target(agent_id="a-1"), "")
    assert ended == 6
    for stream in (*streams, watch):
        caught = await failure(drain(stream))
        assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert time.monotonic() - start < 1
    assert house.service.closed == 1
    await survivor.write(pb.WorkRequest())
    assert await survivor.read() == pb.WorkResponse()
    survivor.cancel()


async def test_revocation_ends_a_stream_whose_client_does_not_read(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    request = pb.WatchTaskRequest(task_id="flood")
    call = pb_grpc.SchedulerServiceStub(house.tcp).WatchTask(request, metadata=bearer(token))
    await call.read()
    await asyncio.sleep(0.3)
    await house.world.authority.revoke(house.world.call(), "blue", Target(agent_id="a-1"), "")
    for _ in range(100):
        if house.observer.calls:
            break
        await asyncio.sleep(0.01)
    assert house.service.closed == 1
    assert len(house.world.authority._streams) == 0
    assert house.observer.calls == [("WatchTask", "UNAUTHENTICATED")]
    call.cancel()


async def test_no_frame_arrives_after_the_revocation(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    stream = await work(house, token)
    await stream.read()
    await house.world.authority.revoke(house.world.call(), "blue", Target(agent_id="a-1"), "")
    seen = len(house.service.seen)
    try:
        for _ in range(5):
            await stream.write(opening())
            await asyncio.sleep(0.02)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    assert len(house.service.seen) == seen


async def test_a_fresh_token_keeps_a_stream_and_a_wrong_one_ends_it(house: House) -> None:
    token = await house.token(AgentType.WORKER, lifetime_ms=1_000)
    stream = await work(house, token)
    await stream.read()

    async def send(fresh: str) -> None:
        frame = session_pb2.AgentFrame(fresh_token=session_pb2.FreshToken(token=fresh))
        await stream.write(pb.WorkRequest(frames=[frame]))

    await send(await house.token(AgentType.WORKER))
    assert await stream.read() == pb.WorkResponse()
    await send(await house.token(AgentType.WORKER, "a-2"))
    caught = await failure(drain(stream))
    assert (caught.code, caught.reason) == (CODE.PERMISSION_DENIED, "IDENTITY_MISMATCH")


async def test_a_stream_ends_when_its_token_does(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.engine.token_streams.EXPIRY_GRACE_MS", -900)
    token = await house.token(AgentType.WORKER, lifetime_ms=1_000)
    stream = await work(house, token)
    await stream.read()
    caught = await failure(asyncio.wait_for(drain(stream), 2))
    assert (caught.code, caught.reason) == (CODE.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_the_open_frame_decides_the_namespace(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    stream = await work(house, token, opening("red"))
    caught = await failure(drain(stream))
    assert (caught.code, caught.reason) == (CODE.PERMISSION_DENIED, "NAMESPACE_MISMATCH")
    operator = pb_grpc.SchedulerServiceStub(house.socket).Work()
    await begin(operator, opening())
    assert (await failure(drain(operator))).reason == "FIELD_REQUIRED"
    assert house.service.seen == []
    monitor = await work(house, await house.token(AgentType.MONITOR))
    assert (await failure(drain(monitor))).reason == "ACCESS_DENIED"


async def test_an_audited_stream_answers_nothing_before_its_record(house: House) -> None:
    stream = await work(house, await house.token(AgentType.WORKER), opening(agent_id="unaudited"))
    assert (await failure(drain(stream))).code is CODE.INTERNAL


async def test_garbage_in_a_stream(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    call: Any = house.tcp.stream_stream("/agentmesh.v1.SchedulerService/Work")(metadata=bearer(token))
    await begin(call, b"\xff\xff\xff")
    caught = await failure(drain(call))
    assert (caught.code, caught.reason) == (CODE.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert house.incidents == []


async def test_iterators_are_closed_when_the_client_leaves(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    call = stub.WatchTask(pb.WatchTaskRequest(namespace="blue"))
    await call.read()
    call.cancel()
    for _ in range(100):
        if house.service.closed and house.observer.calls:
            break
        await asyncio.sleep(0.01)
    assert house.service.closed == 1
    assert house.observer.calls == [("WatchTask", "CANCELLED")]
    assert len(house.world.authority._streams) == 0


async def test_a_stream_that_breaks_under_a_write_is_no_incident(house: House) -> None:
    stub = pb_grpc.SchedulerServiceStub(house.socket)
    call = stub.WatchTask(pb.WatchTaskRequest(namespace="blue", task_id="broken"))
    assert await house.observer.measured(1) == [("WatchTask", "CANCELLED")]
    assert house.incidents == []
    call.cancel()


async def test_a_half_closed_stream_ends_in_good_order(house: House) -> None:
    stream = await work(house, await house.token(AgentType.WORKER))
    await stream.done_writing()
    await drain(stream)
    assert await stream.code() is CODE.OK
    assert house.observer.calls == [("Work", "OK")]


async def test_a_connection_whose_places_are_all_held_is_reported_once(house: House) -> None:
    token = await house.token(AgentType.WORKER)
    waiter = await house.token(AgentType.ORCHESTRATOR, "o-1")
    streams = [await work(house, token) for _ in range(PLACES - 1)]
    for stream in streams:
        await stream.read()
    assert house.full == []
    wait = pb_grpc.SchedulerServiceStub(house.tcp).WaitTask(pb.WaitTaskRequest(), metadata=bearer(waiter))
    asking = asyncio.ensure_future(wait)
    await asyncio.wait_for(house.service.waiting.wait(), 10)
    (peer,) = house.full
    assert peer.startswith("ipv4:127.0.0.1:")
    one_more = await work(house, token)
    await one_more.read()
    assert house.full == [peer]
    asking.cancel()
    for stream in (*streams, one_more):
        stream.cancel()
