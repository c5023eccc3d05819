"""A small meshd for the SDK's tests: real gRPC, scripted by the test, no rules of its own.

It runs on the SDK's gRPC thread, because one process bears only one gRPC loop. Tests hand it frames to send and wait
for what it received; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from agentmesh.grpc_thread import wait_for_grpc_thread
from agentmesh.identity import proof_message
from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    auth_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from agentmesh.v1.session_pb2 import (
    Ack,
    AgentFrame,
    Assign,
    LeaseAck,
    MeshFrame,
    Open,
    Opened,
    SessionLimits,
)

T = TypeVar("T")


def token_for(lifetime_s: float, number: int) -> str:
    claims = json.dumps({"iat": 1_000, "exp": 1_000 + lifetime_s, "n": number}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.sig"


def assign(fence: str, task_type: str = "work", payload: bytes = b"", **fields: Any) -> MeshFrame:
    message = Assign(fence=fence.encode(), task_id=f"task-{fence}", task_type=task_type, attempt=1, **fields)
    message.payload.inline = payload
    return MeshFrame(assign=message)


async def refuse(
    context: grpc.aio.ServicerContext[Any, Any],
    code: grpc.StatusCode,
    reason: str,
    retry_s: float | None = None,
) -> None:
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}")
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="agentmesh")]
    if retry_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(retry_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, status.message)


class FakeStream:
    """One Work or Heartbeat stream, as the daemon sees it. `send` and `expect` are for the test's thread."""

    def __init__(self, opening: Open, loop: asyncio.AbstractEventLoop) -> None:
        self.opening = opening
        self.down: asyncio.Queue[list[MeshFrame] | tuple[grpc.StatusCode, str] | None] = asyncio.Queue()
        self._loop = loop
        self._seen: deque[AgentFrame] = deque()
        self._news = threading.Condition()
        self.ended = False
        self.batches = 0

    def send(self, *frames: MeshFrame) -> None:
        self._loop.call_soon_threadsafe(self.down.put_nowait, list(frames))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self.down.put_nowait, None)

    def abort(self, code: grpc.StatusCode, reason: str) -> None:
        self._loop.call_soon_threadsafe(self.down.put_nowait, (code, reason))

    def received(self, frames: list[AgentFrame]) -> None:
        with self._news:
            self.batches += 1
            self._seen.extend(frames)
            self._news.notify_all()

    def mark_ended(self) -> None:
        with self._news:
            self.ended = True
            self._news.notify_all()

    def wait_ended(self, timeout_s: float = 10.0) -> None:
        with self._news:
            ended = self._news.wait_for(lambda: self.ended, timeout_s)
        assert ended, "the stream did not end"

    def expect(self, kind: str, fence: str | None = None, timeout_s: float = 10.0) -> Any:
        """The next frame of a kind (about a fence), skipping and forgetting all others before it."""
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while True:
                while self._seen:
                    frame = self._seen.popleft()
                    if frame.WhichOneof("frame") == kind:
                        body = getattr(frame, kind)
                        if fence is None or body.fence == fence.encode():
                            return body
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {kind} frame came"
                assert not self.ended, f"the stream ended without a {kind} frame"
                self._news.wait(left_s)


class FakeMesh:
    """The daemon. Attributes are the script; `acks` acknowledges every report at once."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.limits = SessionLimits(
            beat_interval=Duration(nanos=50_000_000),
            lease_ttl=Duration(seconds=3),
            max_reconnect_backoff=Duration(seconds=1),
            disconnected_grace=Duration(seconds=600),
            max_message_bytes=1024 * 1024,
        )
        self.token_lifetime_s = 3600.0
        self.acks = True
        self.answers_beats = True
        self.drop: list[bytes] = []
        self.joins: list[auth_service_pb2.JoinRequest] = []
        self.renewals = 0
        self.known_key: bytes | None = None
        self.registrations: list[registry_service_pb2.RegisterAgentRequest] = []
        self.live_session_id: str | None = None
        self.tokens_seen: list[str] = []
        self.refuse_next: dict[str, list[tuple[grpc.StatusCode, str, float | None]]] = {}
        self.answer: dict[str, Callable[[Any], Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self._streams: deque[FakeStream] = deque()
        self._news = threading.Condition()
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._issued = 0

    # ---- for the test's thread -------------------------------------------------------------------------------------

    def start(self) -> FakeMesh:
        wait_for_grpc_thread(self._start())
        return self

    def stop(self) -> None:
        wait_for_grpc_thread(self._stop())

    def next_stream(self, timeout_s: float = 10.0) -> FakeStream:
        with self._news:
            assert self._news.wait_for(lambda: bool(self._streams), timeout_s), "no stream was opened"
            return self._streams.popleft()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        with self._news:
            assert self._news.wait_for(condition, timeout_s), "it did not come to that"

    # ---- the daemon ------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = self._server = grpc.aio.server()
        methods: Any = self  # those of the three services that are called; see __getattr__
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(methods, server)
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(methods, server)
        scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(methods, server)
        assert server.add_insecure_port(self.address)
        await server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)

        async def unimplemented(request: Any, context: Any) -> None:
            await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")

        return unimplemented

    def _note(self) -> None:
        with self._news:
            self._news.notify_all()

    async def _scripted(self, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.calls.append((method, request))
        waiting = self.refuse_next.get(method)
        if waiting:
            await refuse(context, *waiting.pop(0))

    def _token(self) -> auth_service_pb2.Token:
        self._issued += 1
        return auth_service_pb2.Token(value=token_for(self.token_lifetime_s, self._issued))

    async def Join(self, request: Any, context: Any) -> auth_service_pb2.JoinResponse:
        await self._scripted("Join", request, context)
        self.joins.append(request)
        self.known_key = request.public_key
        self._note()
        return auth_service_pb2.JoinResponse(token=self._token())

    async def IssueToken(self, request: Any, context: Any) -> auth_service_pb2.IssueTokenResponse:
        await self._scripted("IssueToken", request, context)
        return auth_service_pb2.IssueTokenResponse(token=self._token())

    async def CreateJoinToken(self, request: Any, context: Any) -> auth_service_pb2.CreateJoinTokenResponse:
        await self._scripted("CreateJoinToken", request, context)
        return auth_service_pb2.CreateJoinTokenResponse(join_token="join")

    async def RenewToken(self, request: Any, context: Any) -> auth_service_pb2.RenewTokenResponse:
        await self._scripted("RenewToken", request, context)
        if not request.signature:
            return auth_service_pb2.RenewTokenResponse(nonce=b"nonce")
        try:
            key = Ed25519PublicKey.from_public_bytes(self.known_key or b"")
            key.verify(request.signature, proof_message(request.namespace, request.agent_id, request.nonce))
        except (ValueError, InvalidSignature):
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "PROOF_INVALID")
        self.renewals += 1
        self._note()
        return auth_service_pb2.RenewTokenResponse(token=self._token())

    async def RegisterAgent(self, request: Any, context: Any) -> registry_service_pb2.RegisterAgentResponse:
        await self._scripted("RegisterAgent", request, context)
        self.registrations.append(request)
        session_id = f"session-{len(self.registrations)}"
        self._note()
        return registry_service_pb2.RegisterAgentResponse(
            session_id=session_id, resume_token=b"resume", limits=self.limits
        )

    async def GetAgent(self, request: Any, context: Any) -> registry_service_pb2.GetAgentResponse:
        await self._scripted("GetAgent", request, context)
        session_id = self.live_session_id or f"session-{len(self.registrations)}"
        health = agent_pb2.HEALTH_HEALTHY if self.live_session_id else agent_pb2.HEALTH_LOST
        return registry_service_pb2.GetAgentResponse(
            agent=agent_pb2.Agent(session_id=session_id, health=health)
        )

    async def Work(self, requests: Any, context: Any) -> None:
        await self._serve_stream(context, scheduler_service_pb2.WorkResponse)

    async def Heartbeat(self, requests: Any, context: Any) -> None:
        await self._serve_stream(context, registry_service_pb2.HeartbeatResponse)

    async def _serve_stream(self, context: Any, response: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.tokens_seen.append(metadata.get("authorization", "").removeprefix("Bearer "))
        first = await context.read()
        await self._scripted("Work", first, context)
        opening = first.frames[0].open
        assert self._loop is not None
        stream = FakeStream(opening, self._loop)
        held = [item.fence for item in opening.held]
        keep = [fence for fence in held if fence not in self.drop]
        drop = [fence for fence in held if fence in self.drop]
        opened = Opened(features=opening.features, epoch=1, keep=keep, drop=drop, limits=self.limits)
        await context.write(response(frames=[MeshFrame(opened=opened)]))
        with self._news:
            self._streams.append(stream)
            self._news.notify_all()
        reading = asyncio.create_task(self._read(context, stream))
        try:
            while (order := await stream.down.get()) is not None:
                if isinstance(order, tuple):
                    await refuse(context, *order)
                else:
                    await context.write(response(frames=order))
        finally:
            reading.cancel()
            stream.mark_ended()

    async def _read(self, context: Any, stream: FakeStream) -> None:
        while (batch := await context.read()) is not grpc.aio.EOF:
            frames = list(batch.frames)
            down: list[MeshFrame] = []
            for frame in frames:
                kind = frame.WhichOneof("frame")
                if kind == "beat" and self.answers_beats:
                    down.append(MeshFrame(lease_ack=LeaseAck(beat_seq=frame.beat.seq)))
                if kind in ("done", "fail", "stopped") and self.acks:
                    down.append(MeshFrame(ack=Ack(fence=getattr(frame, kind).fence)))
                if kind == "bye":
                    stream.down.put_nowait(None)
            if down:
                stream.down.put_nowait(down)
            stream.received(frames)
        stream.mark_ended()

    # ---- the scheduler, for clients --------------------------------------------------------------------------------

    async def _unary(self, method: str, request: Any, context: Any) -> Any:
        await self._scripted(method, request, context)
        self._note()
        reply = self.answer[method](request)
        return await reply if asyncio.iscoroutine(reply) else reply

    async def SubmitTask(self, request: Any, context: Any) -> Any:
        return await self._unary("SubmitTask", request, context)

    async def SubmitTasks(self, request: Any, context: Any) -> Any:
        return await self._unary("SubmitTasks", request, context)

    async def GetTask(self, request: Any, context: Any) -> Any:
        return await self._unary("GetTask", request, context)

    async def ListTasks(self, request: Any, context: Any) -> Any:
        return await self._unary("ListTasks", request, context)

    async def WaitTask(self, request: Any, context: Any) -> Any:
        return await self._unary("WaitTask", request, context)

    async def WatchTask(self, request: Any, context: Any) -> None:
        await self._scripted("WatchTask", request, context)
        for event in self.answer["WatchTask"](request):
            await context.write(event)

    async def WatchTasks(self, request: Any, context: Any) -> None:
        await self._scripted("WatchTasks", request, context)
        for update in self.answer["WatchTasks"](request):
            await context.write(update)

    async def WatchAgents(self, request: Any, context: Any) -> None:
        await self._scripted("WatchAgents", request, context)
        for update in self.answer["WatchAgents"](request):
            await context.write(update)
