"""Port of measurements: the engine says what happened, the ops floor counts it. Never blocks, never raises."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from meshd.domain.values import OutcomeReason, TaskState


class Stage(Enum):
    """A part of a task's way whose duration is measured."""

    DURABLE = "durable"
    """From submit until durable."""
    ASSIGNED = "assigned"
    """From submit until an agent was chosen for the first attempt."""
    ACCEPTED = "accepted"
    """From the choice of an agent until its Accept."""
    RAN = "ran"
    """From Accept until the agent reported success or failure."""
    SUCCEEDED = "succeeded"
    """From submit until success."""


class Observer(Protocol):
    """Receives what the mesh measures about itself. Durations in seconds."""

    def submitted(self, namespace: str, count: int) -> None:
        """New tasks were taken."""

    def assigned(self, namespace: str, count: int) -> None:
        """Attempts were handed out."""

    def ended(self, namespace: str, state: TaskState, outcome: OutcomeReason, count: int) -> None:
        """Tasks reached a terminal state."""

    def lost(self, namespace: str, cause: str, count: int) -> None:
        """Attempts were taken from a lost agent; cause: connection, ttl, superseded, revoked, hold."""

    def returned(self, namespace: str, cause: str, count: int) -> None:
        """Attempts came back at no fault of the task; cause: declined, unaccepted."""

    def stale(self, namespace: str, count: int) -> None:
        """Reports with a foreign or old fence were refused."""

    def staged(self, stage: Stage, namespace: str, count_by_ms: Mapping[int, int]) -> None:
        """Tasks of one batch went through a stage: how many took how many milliseconds."""

    def committed(self, rows: int, seconds: float) -> None:
        """A commit became durable."""

    def refused(self, reason: str) -> None:
        """A call was refused."""

    def handled(self, method: str, code: str, seconds: float) -> None:
        """A call ended with this gRPC code."""

    def stalled(self, seconds: float) -> None:
        """The daemon itself stood still for so long."""
