"""The one transition table of a task.

Everything that changes a task's state asks it; the docs' diagram is drawn from it. A pair that is not in the table is
a bug of the mesh, never of a caller.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from meshd.domain.values import Task, TaskState


class Event(IntEnum):
    """What can happen to a task. Numbers, because the table is asked three times a task."""

    ASSIGN = auto()
    ACCEPT = auto()
    RETURN = auto()
    """The attempt ended at no fault of the task: declined, not accepted, agent lost or gone."""
    BACKOFF = auto()
    """The attempt failed and another one is due later."""
    READY = auto()
    SUCCEED = auto()
    FAIL = auto()
    CANCEL = auto()
    EXPIRE = auto()


_W, _Q, _A, _R = (
    TaskState.WAITING,
    TaskState.QUEUED,
    TaskState.ASSIGNED,
    TaskState.RUNNING,
)

TABLE: Final[dict[tuple[TaskState, Event], TaskState]] = {
    (_W, Event.READY): _Q,
    (_W, Event.CANCEL): TaskState.CANCELLED,
    (_W, Event.EXPIRE): TaskState.EXPIRED,
    (_Q, Event.ASSIGN): _A,
    (_Q, Event.CANCEL): TaskState.CANCELLED,
    (_Q, Event.EXPIRE): TaskState.EXPIRED,
    (_A, Event.ACCEPT): _R,
    (_A, Event.RETURN): _Q,
    (_A, Event.BACKOFF): _W,
    (_A, Event.SUCCEED): TaskState.SUCCEEDED,
    (_A, Event.FAIL): TaskState.FAILED,
    (_A, Event.CANCEL): TaskState.CANCELLED,
    (_A, Event.EXPIRE): TaskState.EXPIRED,
    (_R, Event.RETURN): _Q,
    (_R, Event.BACKOFF): _W,
    (_R, Event.SUCCEED): TaskState.SUCCEEDED,
    (_R, Event.FAIL): TaskState.FAILED,
    (_R, Event.CANCEL): TaskState.CANCELLED,
    (_R, Event.EXPIRE): TaskState.EXPIRED,
}


class IllegalTransitionError(Exception):
    """Somebody tried what the table does not allow."""


def advance(task: Task, event: Event) -> None:
    """Move a task along the table. Raises IllegalTransitionError."""
    target = TABLE.get((task.state, event))
    if target is None:
        raise IllegalTransitionError(
            f"task {task.spec.task_id} is {task.state.name}: cannot {event.name.lower()}"
        )
    task.state = target
