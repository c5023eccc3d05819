"""Port of single steps of tasks, for those who follow one task by its id: the log, and spans.

Rule: costs a task something, so the engine asks once a batch whether anybody listens; by default nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from meshd.domain.values import Task


class Step(Enum):
    """What happened to a task; the value is what logs say."""

    SUBMITTED = "task submitted"
    ASSIGNED = "task assigned"
    STOPPING = "task stopping"
    """Its attempt was told to stop: cancelled, or out of time."""
    FAILED = "task attempt failed"
    LOST = "task attempt lost"
    """With its agent."""
    RETURNED = "task attempt returned"
    """Declined, not accepted in time, or handed back."""
    STOPPED = "task attempt stopped"
    ENDED = "task ended"


class TaskStep(NamedTuple):
    """One step of one task. It is durable when it is told."""

    step: Step
    task: Task
    """Who it is. Its state may have moved on, except after ENDED."""
    attempt: int
    """0 before the first."""
    agent_id: str
    """Whose attempt it is or was; empty before the first."""
    detail: str
    """Why, in words of the contract; empty where the step says it all."""


StepListener = Callable[[Sequence[TaskStep]], None]
"""Is told the steps of a batch once they are durable, in order for each task. Must not block."""
