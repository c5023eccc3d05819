"""A whole meshd in this process, on a socket and on TCP, seen through the generated stubs only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    auth_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    payload_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    session_pb2,
    task_pb2,
)
from meshd import daemon
from meshd.config import Settings
from meshd.ops.metrics import Metrics
from meshd.ops.readiness import Readiness
from meshd.ports.store import StorageError
from meshd.store.sqlite import SqliteStore

FULL = (1, 2, 3, 4, 5)


class Stubs:
    """Stubs of all services on one channel, with a token or as the local operator."""

    def __init__(self, channel: grpc.aio.Channel, token: str = "") -> None:
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        self.auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.namespaces: Any = namespace_service_pb2_grpc.NamespaceServiceStub(channel)


class RunningMesh:
    """A mesh that serves."""

    def __init__(self, socket: str, stack: AsyncExitStack, metrics: Metrics, parts: daemon.Parts) -> None:
        self.socket = socket
        self.metrics = metrics
        self.parts = parts
        self._stack = stack
        self.operator = self.stubs()

    def stubs(self, token: str = "") -> Stubs:
        """Return stubs on a channel of their own."""
        channel = grpc.aio.insecure_channel(self.socket, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stack.push_async_callback(channel.close)
        return Stubs(channel, token)

    async def token(
        self,
        agent_id: str,
        kind: str = "WORKER",
        namespace: str = "default",
        ttl_s: int = 0,
        scope: tuple[str, ...] = (),
    ) -> str:
        """Have a token issued; 0 seconds means the usual hour."""
        request = auth_service_pb2.IssueTokenRequest(
            namespace=namespace,
            agent_id=agent_id,
            type=agent_pb2.AgentType.Value(f"AGENT_TYPE_{kind}"),
            capabilities=["*"],
            scope=scope,
        )
        if ttl_s:
            request.lifetime.seconds = ttl_s
        value: str = (await self.operator.auth.IssueToken(request)).token.value
        return value

    async def submit(self, task_id: str = "", task_type: str = "work", **fields: Any) -> task_pb2.Task:
        """Submit one task as the operator."""
        fields.setdefault("payload", payload_pb2.Payload(inline=b"in"))
        spec = task_pb2.TaskSpec(task_id=task_id, task_type=task_type, **fields)
        request = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
        task: task_pb2.Task = (await self.operator.scheduler.SubmitTask(request)).task
        return task

    async def wait(self, task_id: str, seconds: int = 10) -> task_pb2.Task:
        """Wait for the end of a task as the operator."""
        request = scheduler_service_pb2.WaitTaskRequest(namespace="default", task_id=task_id)
        request.timeout.seconds = seconds
        task: task_pb2.Task = (await self.operator.scheduler.WaitTask(request)).task
        return task

    async def agent(self, agent_id: str, features: tuple[int, ...] = FULL, **spec: Any) -> HandMadeAgent:
        """Return a connected agent written by hand."""
        agent = HandMadeAgent(self.stubs(await self.token(agent_id)), agent_id, features)
        await agent.register(**spec)
        await agent.open()
        self._stack.callback(agent.call.cancel)
        return agent


class HandMadeAgent:
    """An agent without SDK: sends and receives the frames it is told to."""

    def __init__(self, stubs: Stubs, agent_id: str, features: tuple[int, ...]) -> None:
        self.stubs = stubs
        self.agent_id = agent_id
        self.features = features
        self.max_inbound_bytes = 0
        self.stream_seq = 0
        self.call: Any = None
        self.frames: list[session_pb2.MeshFrame] = []

    async def register(self, **spec: Any) -> None:
        """Start a session."""
        spec.setdefault("capabilities", ["work"])
        spec.setdefault("slots", 2)
        self.registered = await self.stubs.registry.RegisterAgent(
            registry_service_pb2.RegisterAgentRequest(
                spec=agent_pb2.AgentSpec(agent_id=self.agent_id, type=agent_pb2.AGENT_TYPE_WORKER, **spec),
                session_key=secrets.token_bytes(16),
            ),
            metadata=self.stubs.metadata,
        )

    async def open(self, *held: session_pb2.HeldAttempt) -> session_pb2.Opened:
        """Open a Work stream."""
        self.stream_seq += 1
        self.frames = []
        self.call = self.stubs.scheduler.Work(metadata=self.stubs.metadata)
        await self.send(
            open=session_pb2.Open(
                agent_id=self.agent_id,
                session_id=self.registered.session_id,
                resume_token=self.registered.resume_token,
                stream_seq=self.stream_seq,
                protocol=1,
                features=self.features,  # type: ignore[arg-type]
                max_inbound_bytes=self.max_inbound_bytes,
                held=held,
            )
        )
        return (await self.expect("opened")).opened

    async def send(self, **frame: Any) -> None:
        """Send one frame."""
        await self.call.write(scheduler_service_pb2.WorkRequest(frames=[session_pb2.AgentFrame(**frame)]))

    async def next(self) -> session_pb2.MeshFrame:
        """Return the next frame."""
        while not self.frames:
            message = await self.call.read()
            assert message is not grpc.aio.EOF, "the stream ended"
            self.frames.extend(message.frames)
        return self.frames.pop(0)

    async def expect(self, kind: str) -> session_pb2.MeshFrame:
        """Return the next frame of a kind; others that come first are dropped."""
        async with asyncio.timeout(10):
            while (frame := await self.next()).WhichOneof("frame") != kind:
                pass
            return frame


@asynccontextmanager
async def running_mesh(folder: Path) -> AsyncIterator[RunningMesh]:
    """Run a mesh on a folder; a second one on the same folder is the first one restarted."""
    settings = Settings(
        data_dir=str(folder / "data"), socket=str(folder / "s"), listen="127.0.0.1:0", http_listen=""
    )
    store = SqliteStore(folder / "data")
    metrics = Metrics()
    failures: list[StorageError] = []
    parts = daemon._compose(settings, store, store.load(), metrics, failures.append)
    readiness = Readiness()
    async with daemon._listening(settings, parts, metrics, readiness, None) as addresses:
        async with AsyncExitStack() as stack:
            yield RunningMesh(addresses["socket"], stack, metrics, parts)
        await daemon._take_down(parts)
    store.close()
    assert not failures


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[RunningMesh]:
    async with running_mesh(tmp_path) as running:
        yield running


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in an error's details; there is exactly one."""
    trailing: Any = error.trailing_metadata() or ()
    status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "agentmesh"
    return str(info.reason)


async def refused(call: Any) -> str:
    """Await a call that must be refused; return the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


__all__ = ["HandMadeAgent", "RunningMesh", "namespace_service_pb2", "reason_of", "refused", "running_mesh"]
