"""Watching single tasks: each watcher gets every durable change, progress and output since it came.

A watcher that falls behind loses output and progress, never its newest state of the task: its queue is bounded. What a turn
brings of one task is made ready once and shared by all who watch it: their number must not multiply the work on a report.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from functools import partial
from typing import NamedTuple

from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Task
from meshd.engine.feeds import Feeds

MAX_QUEUED = 1_024
"""Events a watcher may be behind; older output is dropped first, its ``seq`` shows the hole."""
MAX_QUEUED_OUTPUT_BYTES = 1024 * 1024
"""Output a watcher may be behind."""
MAX_TOGETHER = 128
MAX_TOGETHER_BYTES = 64 * 1024
"""Pieces, and output in them, handed over and dropped together."""
MAX_WATCHERS = 1_000
"""Watches and waits of one task by one caller."""
RETRY_MS = 5_000


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


Piece = OutputPiece | ProgressNote
TaskEvent = Task | Piece


class Pieces(NamedTuple):
    """Output and progress, shared by all who watch their task."""

    pieces: list[Piece]
    output_bytes: int


def together(pieces: list[Piece]) -> list[Pieces]:
    """Return pieces as they are handed over, without those that nobody could keep."""
    parts: list[Pieces] = []
    part: list[Piece] = []
    size_bytes = 0
    for piece in pieces[-MAX_QUEUED:]:
        own_bytes = _output_bytes(piece)
        if part and (len(part) >= MAX_TOGETHER or size_bytes + own_bytes > MAX_TOGETHER_BYTES):
            parts.append(Pieces(part, size_bytes))
            part, size_bytes = [], 0
        part.append(piece)
        size_bytes += own_bytes
    if part:
        parts.append(Pieces(part, size_bytes))
    return parts


class Watcher:
    """One who watches one task."""

    def __init__(self, subject: str = "") -> None:
        self.subject = subject
        self._events: deque[Task | Pieces] = deque()
        self._queued = 0
        self._output_bytes = 0
        self._read = 0
        """Pieces that were taken of the first event."""
        self._wake = asyncio.Event()

    def put(self, event: Task | Pieces) -> None:
        """Add an event."""
        self._events.append(event)
        if isinstance(event, Pieces):
            self._queued += len(event.pieces)
            self._output_bytes += event.output_bytes
        else:
            self._queued += 1
        while self._queued > MAX_QUEUED or self._output_bytes > MAX_QUEUED_OUTPUT_BYTES:
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        """Drop the oldest pieces of output and progress; without any, the oldest state of the task."""
        index = next((i for i, event in enumerate(self._events) if isinstance(event, Pieces)), 0)
        event = self._events[index]
        del self._events[index]
        if isinstance(event, Pieces):
            self._queued -= len(event.pieces)
            self._output_bytes -= event.output_bytes
            if index == 0:
                self._queued += self._read
                self._output_bytes += sum(map(_output_bytes, event.pieces[: self._read]))
                self._read = 0
        else:
            self._queued -= 1

    async def next(self) -> TaskEvent:
        """Wait for the next event."""
        while not self._events:
            self._wake.clear()
            await self._wake.wait()
        self._queued -= 1
        first = self._events[0]
        if not isinstance(first, Pieces):
            self._events.popleft()
            return first
        piece = first.pieces[self._read]
        self._output_bytes -= _output_bytes(piece)
        self._read += 1
        if self._read == len(first.pieces):
            self._events.popleft()
            self._read = 0
        return piece


class WatchHub:
    """Who watches which task, by the task's key; and who watches all agents or tasks of a namespace."""

    def __init__(self) -> None:
        self._watchers: dict[int, set[Watcher]] = {}
        self.agents: Feeds[Agent] = Feeds()
        self.tasks: Feeds[Task] = Feeds()

    def add(self, key: int, subject: str) -> Watcher:
        """Start watching. Raises Refusal when the subject watches the task too often."""
        watchers = self._watchers.get(key, ())
        if sum(watcher.subject == subject for watcher in watchers) >= MAX_WATCHERS:
            message = (
                f"{subject} watches or waits for this task {MAX_WATCHERS} times already; share one of them"
            )
            raise Refusal(Reason.OVERLOADED, message, retry_ms=RETRY_MS)
        watcher = Watcher(subject)
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

    def publish(self, key: int, event: Task | Pieces) -> None:
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
        fresh: dict[int, list[Piece]] = {}
        for task in dict.fromkeys(out.progress):
            if task.progress is not None and self.watched(task.key):
                # Without a new assignment, which clears it, the task is still that agent's.
                fresh.setdefault(task.key, []).append(ProgressNote(task.agent_id, *task.progress))
        for key, attempt, agent_id, seq, chunk in out.output:
            if self.watched(key):
                fresh.setdefault(key, []).append(OutputPiece(agent_id, attempt, seq, chunk))
        for key, pieces in fresh.items():
            for part in together(pieces):
                self.publish(key, part)


def _output_bytes(piece: Piece) -> int:
    return len(piece.chunk) if isinstance(piece, OutputPiece) else 0
