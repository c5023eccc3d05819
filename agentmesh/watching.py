"""The events of one task until its end, across restarts of the daemon.

Rule: order is (generation, attempt, seq); after a new connection, what was seen already is not told again.
"""

from __future__ import annotations

import grpc
import grpc.aio

from agentmesh.backoff import Backoff
from agentmesh.calls import Caller
from agentmesh.errors import from_rpc_error
from agentmesh.v1.scheduler_service_pb2 import WatchTaskRequest, WatchTaskResponse
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


class WatchEvents:
    """Runs on the gRPC thread: `await next()` until it returns None, then or earlier `cancel()`."""

    def __init__(self, caller: Caller, request: WatchTaskRequest, retry_for_s: float | None) -> None:
        self._caller = caller
        self._request = request
        self._retry_for_s = retry_for_s
        self._backoff: Backoff = caller.backoff()
        self._call: grpc.aio.UnaryStreamCall[WatchTaskRequest, WatchTaskResponse] | None = None
        self._deadline_s: float | None = None  # runs from the first failure in a row
        self._ended = False
        self._generation = -1
        self._progress = self._output = (0, -1)

    async def next(self) -> WatchTaskResponse | None:
        """The next event; None after the terminal one. MeshError when the daemon refuses or stays away."""
        while not self._ended:
            event = await self._read()
            if event is not None and self._is_news(event):
                self._ended = event.task.state in TERMINAL_STATES
                return event
        return None

    def cancel(self) -> None:
        """Ends the stream."""
        self._ended = True
        if self._call is not None:
            self._call.cancel()

    async def _read(self) -> WatchTaskResponse | None:
        if self._call is None:
            stub = SchedulerServiceStub(self._caller.channel())
            self._call = stub.WatchTask(self._request, metadata=self._caller.metadata())
        try:
            event = await self._call.read()
            if isinstance(event, WatchTaskResponse):
                self._deadline_s = None
                self._backoff.reset()
                return event
            # An end without the task's end is a daemon going down: ask again.
            self._call = None
            await self._caller.sleep(self._backoff.next_pause_s())
        except grpc.aio.AioRpcError as error:
            self._call = None
            if self._deadline_s is None:
                self._deadline_s = self._caller.deadline_s(self._retry_for_s)
            await self._caller.pause_or_raise(from_rpc_error(error), self._backoff, self._deadline_s)
        return None

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
