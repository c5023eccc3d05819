"""What leaves the mesh because of a batch of commands.

Invariant: ``sends``, ``replies``, ``closes`` and ``changed`` were computed from state that includes ``writes``; the
commit barrier lets them out when those are durable. ``urgent`` depends on nothing durable and leaves at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshd.domain.frames import DownFrame
from meshd.domain.records import Writes
from meshd.domain.values import Agent, OutcomeReason, Task, TaskState

Ticket = object
"""Names a waiting caller; opaque here (the engine's future)."""
Stream = object
"""Names an open stream; opaque here (the engine's outbox)."""


@dataclass(slots=True)
class Effects:
    """Effects of everything computed since the last commit was closed."""

    writes: Writes = field(default_factory=Writes)
    sends: list[tuple[Stream, DownFrame]] = field(default_factory=list)
    replies: list[tuple[Ticket, object]] = field(default_factory=list)
    closes: list[Stream] = field(default_factory=list)
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    """The engine's own: run after everything else was let out."""
    changed: list[Task] = field(default_factory=list)
    """Tasks with a durable change, for those who watch; the engine copies the watched ones at once."""
    changed_agents: list[Agent] = field(default_factory=list)
    """Agents that changed, once for each revision, for those who watch."""
    urgent: list[tuple[Stream, DownFrame]] = field(default_factory=list)
    progress: list[Task] = field(default_factory=list)
    """Tasks with new progress, for those who watch."""
    output: list[tuple[Task, int, bytes]] = field(default_factory=list)
    """(task, seq, chunk) of output, for those who watch."""
    ended: dict[tuple[TaskState, OutcomeReason], int] = field(default_factory=dict)
    """How many tasks ended, and how."""
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    """What else to measure: (what, detail) -> how many."""

    def count(self, what: str, detail: str = "", by: int = 1) -> None:
        """Note something to measure."""
        self.counts[what, detail] = self.counts.get((what, detail), 0) + by
