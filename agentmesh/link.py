"""An agent's connection to the daemon: the few calls it needs, and its stream. The only gRPC of the agent side.

Rule: everything that goes wrong here is a MeshError. A link is made for one stream and closed with it, because gRPC's
own reconnecting returns later than the mesh allows. `Link` and `Stream` are protocols so that the reconnect rules can
be tested without a network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio

from agentmesh.connection import AGENT_KEEPALIVE_MS, Target, call_metadata, open_channel
from agentmesh.errors import Unreachable, from_rpc_error
from agentmesh.v1 import agent_pb2, auth_service_pb2, registry_service_pb2
from agentmesh.v1.auth_service_pb2_grpc import AuthServiceStub
from agentmesh.v1.registry_service_pb2 import HeartbeatRequest
from agentmesh.v1.registry_service_pb2_grpc import RegistryServiceStub
from agentmesh.v1.scheduler_service_pb2 import WorkRequest
from agentmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from agentmesh.v1.session_pb2 import AgentFrame, MeshFrame

CALL_TIMEOUT_S = 5.0

R = TypeVar("R")


class Stream(Protocol):
    """One Work or Heartbeat stream."""

    async def write(self, frames: list[AgentFrame]) -> None:
        """Sends a batch; returns when gRPC took it over. Raises Unreachable when the stream is over."""
        ...

    async def read(self) -> Sequence[MeshFrame] | None:
        """The next batch; None when the daemon ended the stream in good order. Raises MeshError."""
        ...

    def cancel(self) -> None:
        """Ends the stream at once."""
        ...


class Link(Protocol):
    """A connection; every method raises MeshError."""

    async def join(self, request: auth_service_pb2.JoinRequest) -> auth_service_pb2.Token: ...

    async def renew_token(
        self, request: auth_service_pb2.RenewTokenRequest
    ) -> auth_service_pb2.RenewTokenResponse: ...

    async def register(
        self, request: registry_service_pb2.RegisterAgentRequest, token: str
    ) -> registry_service_pb2.RegisterAgentResponse: ...

    async def get_agent(
        self, request: registry_service_pb2.GetAgentRequest, token: str
    ) -> agent_pb2.Agent: ...

    def open_stream(self, token: str, *, takes_work: bool) -> Stream: ...

    async def close(self) -> None: ...


#: Makes a link to the usual address, or to the one a GoAway named.
Connect: TypeAlias = Callable[[str | None], Link]


class GrpcLink:
    """A `Link` over one gRPC channel."""

    def __init__(self, target: Target) -> None:
        channel = open_channel(target, AGENT_KEEPALIVE_MS)
        self._channel = channel
        self._auth = AuthServiceStub(channel)
        self._registry = RegistryServiceStub(channel)
        self._scheduler = SchedulerServiceStub(channel)

    async def join(self, request: auth_service_pb2.JoinRequest) -> auth_service_pb2.Token:
        return (await _answer(self._auth.Join(request, timeout=CALL_TIMEOUT_S))).token

    async def renew_token(
        self, request: auth_service_pb2.RenewTokenRequest
    ) -> auth_service_pb2.RenewTokenResponse:
        return await _answer(self._auth.RenewToken(request, timeout=CALL_TIMEOUT_S))

    async def register(
        self, request: registry_service_pb2.RegisterAgentRequest, token: str
    ) -> registry_service_pb2.RegisterAgentResponse:
        call = self._registry.RegisterAgent(request, timeout=CALL_TIMEOUT_S, metadata=call_metadata(token))
        return await _answer(call)

    async def get_agent(self, request: registry_service_pb2.GetAgentRequest, token: str) -> agent_pb2.Agent:
        call = self._registry.GetAgent(request, timeout=CALL_TIMEOUT_S, metadata=call_metadata(token))
        return (await _answer(call)).agent

    def open_stream(self, token: str, *, takes_work: bool) -> Stream:
        metadata = call_metadata(token)
        if takes_work:
            return GrpcStream(self._scheduler.Work(metadata=metadata), WorkRequest)
        return GrpcStream(self._registry.Heartbeat(metadata=metadata), HeartbeatRequest)

    async def close(self) -> None:
        await self._channel.close()


class GrpcStream:
    """A `Stream` over one bidirectional call."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any], request: Callable[..., Any]) -> None:
        self._call = call
        self._request = request

    async def write(self, frames: list[AgentFrame]) -> None:
        try:
            await self._call.write(self._request(frames=frames))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.InvalidStateError:  # the call had ended already; `read` knows how
            raise Unreachable("the stream is over") from None

    async def read(self) -> Sequence[MeshFrame] | None:
        try:
            batch: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if batch is grpc.aio.EOF:
            return None
        frames: Sequence[MeshFrame] = batch.frames
        return frames

    def cancel(self) -> None:
        self._call.cancel()


async def _answer(call: Awaitable[R]) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
