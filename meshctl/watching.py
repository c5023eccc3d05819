"""Follows all agents and tasks of namespaces for good, across restarts of meshd.

One thread a stream; each goes on after the last position it was told. What is yielded is news: the snapshot with which
a stream begins is left out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from agentmesh.v1 import agent_pb2, registry_service_pb2, scheduler_service_pb2, task_pb2, watch_pb2
from meshctl.following import ConnectionLost, Idle, Stream
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem


@dataclass(frozen=True, slots=True)
class Changed:
    """An agent or a task as it is after a change."""

    item: agent_pb2.Agent | task_pb2.Task


@dataclass(frozen=True, slots=True)
class Missed:
    """Changes in a namespace went by unseen, such as those while meshd was being restarted."""

    namespace: str


News = Changed | Missed | ConnectionLost | Idle


class Watcher:
    """News of some namespaces. Use it as a context manager."""

    def __init__(self, mesh: Mesh, namespaces: Iterable[str], *, agents: bool, tasks: bool) -> None:
        self._mesh = mesh
        self._queue: queue.Queue[Changed | Missed | ConnectionLost | Problem] = queue.Queue(maxsize=1_000)
        self._streams: list[Stream[Any]] = []
        for name in namespaces:
            if agents:
                agents_request = registry_service_pb2.WatchAgentsRequest(namespace=name)
                self._follow(name, mesh.registry.WatchAgents, agents_request)
            if tasks:
                tasks_request = scheduler_service_pb2.WatchTasksRequest(namespace=name)
                self._follow(name, mesh.scheduler.WatchTasks, tasks_request)

    def __enter__(self) -> Self:
        for stream in self._streams:
            threading.Thread(target=stream.read, name="watch", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stream in self._streams:
            stream.stop()

    def news(self, idle_s: float) -> Iterator[News]:
        """Yields news without end, and Idle after each `idle_s` without any.

        Raises Problem when a call is refused or meshd stays away.
        """
        while True:
            try:
                news = self._queue.get(timeout=idle_s)
            except queue.Empty:
                yield Idle()
                continue
            if isinstance(news, Problem):
                raise news
            yield news

    def skip(self) -> None:
        """Drop the news that nobody took yet; a Problem stays."""
        for _ in range(self._queue.qsize()):
            news = self._queue.get()
            if isinstance(news, Problem):
                self._queue.put(news)

    def _follow(self, namespace: str, method: Callable[..., Any], request: Any) -> None:
        def take(update: Any) -> bool:
            if update.reset:
                request.ClearField("after")
            if update.reset not in (watch_pb2.RESET_REASON_UNSPECIFIED, watch_pb2.RESET_REASON_START):
                self._queue.put(Missed(namespace))
            for change in update.changes:
                kind = change.WhichOneof("change")
                if change.revision and kind in ("agent", "task"):
                    self._queue.put(Changed(getattr(change, kind)))
            if update.HasField("position"):
                request.after.CopyFrom(update.position)
            return False

        self._streams.append(
            Stream(
                self._mesh,
                lambda: method(request, metadata=self._mesh.metadata),
                take,
                self._queue.put,
                lambda: Problem(
                    f"meshd at {self._mesh.target.address} stayed away",
                    "run the command again when it is back",
                    ExitCode.UNREACHABLE,
                ),
            )
        )
