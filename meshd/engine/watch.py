"""Watching single tasks: each watcher gets every durable change, progress and output since it came.

A watcher that falls behind loses output and progress, never its newest state of the task: its queue is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from functools import partial
from typing import NamedTuple

from meshd.domain.effects import Effects
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Task
from meshd.engine.feeds import Feeds

MAX_QUEUED = 1_024
"""Events a watcher may be behind; older output is dropped first, its ``seq`` shows the hole."""
MAX_QUEUED_OUTPUT_BYTES = 1024 * 1024
"""Output a watcher may be behind."""


class OutputPiece(NamedTuple):
    """A piece of output of an attempt."""

    agent_id: str
    """Whose attempt it is; the task may be another agent's by the time a watcher takes this."""
    attempt: int
    seq: int
    chunk: bytes


class ProgressNote(NamedTuple):
    """Progress of an attempt."""

    agent_id: str
    attempt: int
    seq: int
    fraction: float | None
    message: str


TaskEvent = Task | OutputPiece | ProgressNote


class Watcher:
    """One who watches one task."""

    def __init__(self) -> None:
        self._events: deque[TaskEvent] = deque()
        self._output_bytes = 0
        self._wake = asyncio.Event()

    def put(self, event: TaskEvent) -> None:
        """Add an event."""
        self._events.append(event)
        self._output_bytes += _output_bytes(event)
        while len(self._events) > MAX_QUEUED or self._output_bytes > MAX_QUEUED_OUTPUT_BYTES:
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        """Drop the oldest piece of output or progress; without any, the oldest state of the task."""
        index = next((i for i, event in enumerate(self._events) if not isinstance(event, Task)), 0)
        self._output_bytes -= _output_bytes(self._events[index])
        del self._events[index]

    async def next(self) -> TaskEvent:
        """Wait for the next event."""
        while not self._events:
            self._wake.clear()
            await self._wake.wait()
        event = self._events.popleft()
        self._output_bytes -= _output_bytes(event)
        return event


class WatchHub:
    """Who watches which task, by the task's key; and who watches all agents or tasks of a namespace."""

    def __init__(self) -> None:
        self._watchers: dict[int, set[Watcher]] = {}
        self.agents: Feeds[Agent] = Feeds()
        self.tasks: Feeds[Task] = Feeds()

    def add(self, key: int) -> Watcher:
        """Start watching."""
        watcher = Watcher()
        self._watchers.setdefault(key, set()).add(watcher)
        return watcher

    def remove(self, key: int, watcher: Watcher) -> None:
        """Stop watching."""
        watchers = self._watchers.get(key)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[key]

    @property
    def size(self) -> int:
        """How many watchers there are."""
        return sum(map(len, self._watchers.values())) + self.agents.watchers + self.tasks.watchers

    @property
    def active(self) -> bool:
        """True when anybody watches anything."""
        return bool(self._watchers) or self.tasks.active or self.agents.active

    def watched(self, key: int) -> bool:
        """Return whether anybody watches the task."""
        return key in self._watchers

    def publish(self, key: int, event: TaskEvent) -> None:
        """Hand an event to everybody who watches the task."""
        for watcher in self._watchers.get(key, ()):
            watcher.put(event)

    def tell(self, ns: Namespace, out: Effects) -> None:
        """Hand on what a turn brought: changes with its effects, once they are durable; progress and output at once."""
        for publish in (
            self.tasks.record(ns.name, out.changed, ns.task_revision),
            self.agents.record(ns.name, out.changed_agents, ns.agent_revision),
        ):
            if publish is not None:
                out.callbacks.append(publish)
        for task in out.changed:
            if self.watched(task.key):
                out.callbacks.append(partial(self.publish, task.key, copy(task)))
        for task in out.progress:
            if task.progress is not None:
                # Without a new assignment, which clears it, the task is still that agent's.
                self.publish(task.key, ProgressNote(task.agent_id, *task.progress))
        for key, attempt, agent_id, seq, chunk in out.output:
            self.publish(key, OutputPiece(agent_id, attempt, seq, chunk))


def _output_bytes(event: TaskEvent) -> int:
    return len(event.chunk) if isinstance(event, OutputPiece) else 0
