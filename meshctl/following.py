"""Follows one task until its end, across restarts of meshd.

A thread reads the stream and opens it again when it breaks; the caller takes events from a queue,
so that it can do other things meanwhile and Ctrl-C works at once. Rule: a task is never given up because a
connection broke until meshd has been away for `GIVE_UP_S`.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import grpc

from agentmesh.v1 import scheduler_service_pb2, task_pb2
from meshctl import words
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem

GIVE_UP_S = 120.0
_RETRY_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The stream broke and is being opened again."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing happened for the pause asked for."""


Event = scheduler_service_pb2.WatchTaskResponse | ConnectionLost | Idle
_M = TypeVar("_M")
_Queued = scheduler_service_pb2.WatchTaskResponse | ConnectionLost | Problem


class Stream(Generic[_M]):
    """A stream from meshd that is opened again when it breaks, read by a thread of its own."""

    def __init__(
        self,
        mesh: Mesh,
        start: Callable[[], Any],
        take: Callable[[_M], bool],
        tell: Callable[[ConnectionLost | Problem], None],
        stayed_away: Callable[[], Problem],
    ) -> None:
        """`start` opens the stream, `take` gets each message and returns whether it is the last."""
        self._mesh = mesh
        self._start = start
        self._take = take
        self._tell = tell
        self._stayed_away = stayed_away
        self._stopped = threading.Event()
        self._call: grpc.Call | None = None

    def stop(self) -> None:
        """Ends the stream."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def read(self) -> None:
        """Reads until the last message, a refusal, `stop`, or until meshd has been away for `GIVE_UP_S`."""
        lost_since_s: float | None = None
        while not self._stopped.is_set():
            try:
                stream = self._start()
                self._call = stream
                for message in stream:
                    lost_since_s = None
                    if self._take(message):
                        return
            except grpc.RpcError as error:
                problem = self._mesh.problem(error)
                if self._stopped.is_set():
                    return
                if problem.code != ExitCode.UNREACHABLE:
                    self._tell(problem)
                    return
                if lost_since_s is not None and time.monotonic() - lost_since_s > GIVE_UP_S:
                    self._tell(self._stayed_away())
                    return
            # A stream that ended by itself is a meshd going down.
            if lost_since_s is None:
                lost_since_s = time.monotonic()
                self._tell(ConnectionLost())
            self._stopped.wait(_RETRY_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads reconnects


class Follower:
    """Events of one task, the last of which shows it in a terminal state. Use it as a context manager."""

    def __init__(self, mesh: Mesh, namespace: str, task_id: str) -> None:
        self._mesh = mesh
        self._request = scheduler_service_pb2.WatchTaskRequest(namespace=namespace, task_id=task_id)
        self._queue: queue.Queue[_Queued] = queue.Queue(maxsize=1_000)
        self._stream: Stream[scheduler_service_pb2.WatchTaskResponse] = Stream(
            mesh,
            lambda: mesh.scheduler.WatchTask(self._request, metadata=mesh.metadata),
            self._take,
            self._queue.put,
            self._stayed_away,
        )

    def __enter__(self) -> Self:
        threading.Thread(target=self._stream.read, name="watch-task", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.stop()

    def events(self, idle_s: float) -> Iterator[Event]:
        """Yields events up to the terminal one, and Idle after each `idle_s` without any.

        Raises Problem when the call is refused or meshd stays away for `GIVE_UP_S`.
        """
        while True:
            try:
                event = self._queue.get(timeout=idle_s)
            except queue.Empty:
                yield Idle()
                continue
            if isinstance(event, Problem):
                raise event
            yield event
            if isinstance(event, scheduler_service_pb2.WatchTaskResponse) and is_end(event.task):
                return

    def _take(self, event: scheduler_service_pb2.WatchTaskResponse) -> bool:
        self._queue.put(event)
        return is_end(event.task)

    def _stayed_away(self) -> Problem:
        task_id, namespace = self._request.task_id, self._request.namespace
        return Problem(
            f"meshd at {self._mesh.target.address} stayed away; {task_id} goes on without this wait",
            f"watch it later: meshctl task watch {task_id}" + (f" -n {namespace}" if namespace else ""),
            ExitCode.UNREACHABLE,
        )


def is_end(task: task_pb2.Task) -> bool:
    """True for a task in a terminal state, which is final."""
    return task.state in words.TERMINAL_STATES
