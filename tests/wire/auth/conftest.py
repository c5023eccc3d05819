"""A gRPC server with the chain around stand-ins for the services, on TCP and on an operator socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agentmesh.v1 import scheduler_service_pb2 as pb
from agentmesh.v1 import scheduler_service_pb2_grpc as pb_grpc
from agentmesh.v1 import task_pb2
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.wire.access_rules import load_rules
from meshd.wire.admission import Admission
from meshd.wire.chain import Chain
from meshd.wire.context import authorize_namespace, current_call
from meshd.wire.held_calls import HeldCalls
from tests.auth_world import World, new_world

SERVICE = "agentmesh.v1.SchedulerService"

PLACES = 8
"""Calls that a connection may have open before it counts as full."""


class CountingObserver:
    """Keeps what the chain measured."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self._news = asyncio.Event()

    def handled(self, method: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((method, code))
        self._news.set()

    async def measured(self, count: int) -> list[tuple[str, str]]:
        """Wait until so many calls were measured: the caller of a refused one knows of its end before that."""
        async with asyncio.timeout(10):
            while len(self.calls) < count:
                self._news.clear()
                await self._news.wait()
        return self.calls

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)


class Scheduler(pb_grpc.SchedulerServiceServicer):
    """Answers as the tests want it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[Any] = []
        self.closed = 0
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()

    async def GetTask(self, request: Any, context: Any) -> Any:
        call = current_call()
        self.seen.append((call.principal.subject, call.namespace, call.peer, call.method))
        if request.task_id == "secret":
            raise ValueError("the payload is 12345")
        if request.task_id == "busy":
            raise Refusal(Reason.OVERLOADED, "too much", retry_ms=1_500, metadata={"limit": "64"})
        if request.task_id == "field":
            raise Refusal(Reason.INVALID_ARGUMENT, "é" * 2_000, field="task_id")
        return pb.GetTaskResponse(task=task_pb2.Task(namespace=call.namespace))

    async def SubmitTask(self, request: Any, context: Any) -> Any:
        if request.spec.task_id != "forgotten":
            self.world.audit.record(current_call(), namespace=current_call().namespace)
        return pb.SubmitTaskResponse()

    async def WaitTask(self, request: Any, context: Any) -> Any:
        self.waiting.set()
        await self.release.wait()
        return pb.WaitTaskResponse()

    async def WatchTask(self, request: Any, context: Any) -> Any:
        if request.task_id == "broken":
            raise grpc.aio.InternalError("a write failed: the call is over")
        try:
            while True:
                yield pb.WatchTaskResponse()
                await asyncio.sleep(0.01 if request.task_id != "flood" else 0)
        finally:
            self.closed += 1

    async def Work(self, request_iterator: Any, context: Any) -> Any:
        call = current_call()
        async for request in request_iterator:
            for frame in request.frames:
                if frame.WhichOneof("frame") == "open":
                    namespace = authorize_namespace(call, frame.open.namespace)
                    if frame.open.agent_id != "unaudited":
                        self.world.audit.record(call, namespace=namespace)
                    self.seen.append(namespace)
                elif frame.WhichOneof("frame") == "fresh_token":
                    self.world.authority.reauthenticate(call.stream, frame.fresh_token.token)
            yield pb.WorkResponse()


class House:
    """The running server and what is needed to call it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = CountingObserver()
        self.incidents: list[tuple[str, str, BaseException]] = []
        self.admission = Admission(self.observer)  # type: ignore[arg-type]
        self.full: list[str] = []
        """Connections all of whose places were taken."""
        self.service = Scheduler(world)  # type: ignore[abstract]  # the other methods are not called
        self.channels: list[grpc.aio.Channel] = []

    async def start(self, socket: str) -> None:
        chain = Chain(
            methods=load_rules([SERVICE, "grpc.health.v1.Health"]),
            authority=self.world.authority,
            audit=self.world.audit,
            settled=self.world.counting.settled,
            observer=self.observer,  # type: ignore[arg-type]
            report_incident=lambda *incident: self.incidents.append(incident),
            admission=self.admission,
            held_calls=HeldCalls(PLACES, lambda peer, _places: self.full.append(peer)),
        )
        self.server = grpc.aio.server(interceptors=[chain])
        pb_grpc.add_SchedulerServiceServicer_to_server(self.service, self.server)
        probes = health.aio.HealthServicer()
        await probes.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(probes, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.add_insecure_port(f"unix:{socket}")
        await self.server.start()
        self.tcp = self.channel(f"127.0.0.1:{port}")
        self.socket = self.channel(f"unix:{socket}")

    def channel(self, address: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(address)
        self.channels.append(channel)
        return channel

    async def stop(self) -> None:
        for channel in self.channels:
            await channel.close()
        await self.server.stop(0)

    async def token(
        self, kind: AgentType = AgentType.ORCHESTRATOR, agent_id: str = "a-1", **grant: Any
    ) -> str:
        return (await self.world.issue(agent_id, kind, **grant)).value


def bearer(token: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), *more)


class Failure:
    """The status of a failed call, taken apart."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        self.details: list[Any] = []
        if packed is None:
            return
        status = status_pb2.Status.FromString(packed)
        assert status.code == self.code.value[0]
        assert status.message == self.text
        for detail in status.details:
            for kind in (
                error_details_pb2.ErrorInfo,
                error_details_pb2.BadRequest,
                error_details_pb2.RetryInfo,
            ):
                message = kind()
                if detail.Unpack(message):
                    self.details.append(message)
        info = self.details[0]
        assert info.domain == "agentmesh"
        self.reason, self.metadata = info.reason, dict(info.metadata)


async def failure(awaitable: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return Failure(caught.value)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(new_world(tmp_path))
    await house.start(str(tmp_path / "s.sock"))
    yield house
    await house.stop()
