"""What leaves the mesh because of a batch of commands.

Invariant: ``sends``, ``replies``, ``closes`` and ``changed`` were computed from state that includes ``writes``; the
commit barrier lets them out when those are durable. ``urgent`` depends on nothing durable and leaves at once.
"""

from __future__ import annotations

from collections.abc import Callable

from meshd.domain.frames import DownFrame
from meshd.domain.records import Writes
from meshd.domain.values import Agent, OutcomeReason, Task, TaskState

Ticket = object
"""Names a waiting caller; opaque here (the engine's future)."""
Stream = object
"""Names an open stream; opaque here (the engine's outbox)."""


class Effects:
    """Effects of everything computed since the last commit was closed."""

    def __init__(self) -> None:
        # No dataclass: one is made for every commit, and it would be filled by twelve calls.
        self.writes = Writes()
        self.sends: list[tuple[Stream, DownFrame]] = []
        self.replies: list[tuple[Ticket, object]] = []
        self.closes: list[Stream] = []
        self.callbacks: list[Callable[[], None]] = []
        """The engine's own: run after everything else was let out."""
        self.changed: list[Task] = []
        """Tasks with a durable change, for those who watch; the engine copies the watched ones at once."""
        self.changed_agents: list[Agent] = []
        """Agents that changed, once for each revision, for those who watch."""
        self.urgent: list[tuple[Stream, DownFrame]] = []
        self.progress: list[Task] = []
        """Tasks with new progress, for those who watch."""
        self.output: list[tuple[int, int, str, int, bytes]] = []
        """(task's key, attempt, agent, seq, chunk) of output, for those who watch; by now others may hold the task."""
        self.ended: dict[tuple[TaskState, OutcomeReason], int] = {}
        """How many tasks ended, and how."""
        self.counts: dict[tuple[str, str], int] = {}
        """What else to measure: (what, detail) -> how many."""

    def count(self, what: str, detail: str = "", by: int = 1) -> None:
        """Note something to measure."""
        self.counts[what, detail] = self.counts.get((what, detail), 0) + by
