"""Watching, across restarts of the daemon: one task until its end, or all agents or tasks of a namespace for good.

Rule: after a new connection, what was seen already is not told again. For one task order is (generation, attempt, seq);
for many, the position of the last update is named, and a snapshot begins only with an update whose `reset` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar, cast

import grpc
import grpc.aio

from agentmesh.backoff import Backoff
from agentmesh.calls import Caller
from agentmesh.errors import from_rpc_error
from agentmesh.v1.registry_service_pb2 import WatchAgentsRequest, WatchAgentsResponse
from agentmesh.v1.registry_service_pb2_grpc import RegistryServiceStub
from agentmesh.v1.scheduler_service_pb2 import (
    WatchTaskRequest,
    WatchTaskResponse,
    WatchTasksRequest,
    WatchTasksResponse,
)
from agentmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from agentmesh.v1.task_pb2 import TaskState

TERMINAL_STATES = frozenset(
    {
        TaskState.TASK_STATE_SUCCEEDED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_CANCELLED,
        TaskState.TASK_STATE_EXPIRED,
    }
)

Metadata: TypeAlias = tuple[tuple[str, str], ...]

R = TypeVar("R")


class _Stream(Generic[R]):
    """A stream from the daemon that is opened again when it breaks. Runs on the gRPC thread."""

    def __init__(
        self,
        caller: Caller,
        start: Callable[[grpc.aio.Channel, Metadata], grpc.aio.UnaryStreamCall[Any, R]],
        retry_for_s: float | None,
    ) -> None:
        self._caller = caller
        self._start = start
        self._retry_for_s = retry_for_s
        self._backoff: Backoff = caller.backoff()
        self._call: grpc.aio.UnaryStreamCall[Any, R] | None = None
        self._deadline_s: float | None = None  # runs from the first failure in a row

    async def read(self) -> R | None:
        """The next message; None when the stream broke and may be opened again. MeshError when it may not."""
        if self._call is None:
            metadata = await self._caller.metadata()
            self._call = self._start(self._caller.channel(held=True), metadata)
        try:
            message = await self._call.read()
            if message is not grpc.aio.EOF:
                self._deadline_s = None
                self._backoff.reset()
                return cast("R", message)
            # An end without an error is a daemon going down: ask again.
            self._call = None
            await self._caller.sleep(self._backoff.next_pause_s())
        except grpc.aio.AioRpcError as error:
            self._call = None
            if self._deadline_s is None:
                self._deadline_s = self._caller.deadline_s(self._retry_for_s)
            await self._caller.pause_or_raise(from_rpc_error(error), self._backoff, self._deadline_s)
        return None

    def cancel(self) -> None:
        """Ends the stream."""
        if self._call is not None:
            self._call.cancel()


class WatchEvents:
    """Runs on the gRPC thread: `await next()` until it returns None, then or earlier `cancel()`."""

    def __init__(self, caller: Caller, request: WatchTaskRequest, retry_for_s: float | None) -> None:
        self._stream: _Stream[WatchTaskResponse] = _Stream(
            caller,
            lambda channel, metadata: SchedulerServiceStub(channel).WatchTask(request, metadata=metadata),
            retry_for_s,
        )
        self._ended = False
        self._generation = -1
        self._progress = self._output = (0, -1)

    async def next(self) -> WatchTaskResponse | None:
        """The next event; None after the terminal one. MeshError when the daemon refuses or stays away."""
        while not self._ended:
            event = await self._stream.read()
            if event is not None and self._is_news(event):
                self._ended = event.task.state in TERMINAL_STATES
                return event
        return None

    def cancel(self) -> None:
        """Ends the stream."""
        self._ended = True
        self._stream.cancel()

    def _is_news(self, event: WatchTaskResponse) -> bool:
        kind = event.WhichOneof("event")
        if kind == "task":
            known, self._generation = self._generation, max(self._generation, event.task.generation)
            return event.task.generation > known
        if kind == "progress":
            position = (event.progress.attempt, event.progress.seq)
            known_position, self._progress = self._progress, max(self._progress, position)
            return position > known_position
        if kind == "output":
            position = (event.output.attempt, event.output.seq)
            known_position, self._output = self._output, max(self._output, position)
            return position > known_position
        return False  # from a later version of the contract


U = TypeVar("U", WatchAgentsResponse, WatchTasksResponse)


class Updates(Generic[U]):
    """Updates about many agents or tasks. Runs on the gRPC thread: `await next()` for each, in the end `cancel()`."""

    def __init__(
        self,
        caller: Caller,
        request: WatchAgentsRequest | WatchTasksRequest,
        start: Callable[[grpc.aio.Channel, Metadata], grpc.aio.UnaryStreamCall[Any, U]],
        retry_for_s: float | None,
    ) -> None:
        self._request = request  # `after` always names where to go on
        self._stream: _Stream[U] = _Stream(caller, start, retry_for_s)

    async def next(self) -> U:
        """The next update. MeshError when the daemon refuses or stays away."""
        while True:
            update = await self._stream.read()
            if update is None:
                continue
            if update.reset:
                self._request.ClearField("after")
            if update.HasField("position"):
                self._request.after.CopyFrom(update.position)
            return update

    def cancel(self) -> None:
        """Ends the stream."""
        self._stream.cancel()


def agent_updates(
    caller: Caller, request: WatchAgentsRequest, retry_for_s: float | None
) -> Updates[WatchAgentsResponse]:
    """Updates about the agents that a request means."""
    return Updates(
        caller,
        request,
        lambda channel, metadata: RegistryServiceStub(channel).WatchAgents(request, metadata=metadata),
        retry_for_s,
    )


def task_updates(
    caller: Caller, request: WatchTasksRequest, retry_for_s: float | None
) -> Updates[WatchTasksResponse]:
    """Updates about the tasks that a request means."""
    return Updates(
        caller,
        request,
        lambda channel, metadata: SchedulerServiceStub(channel).WatchTasks(request, metadata=metadata),
        retry_for_s,
    )
