"""Assignments that fit into no message of their stream: which they are in a world, and what must come of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from meshd.domain import commands as c
from meshd.domain.frames import Assign
from meshd.domain.state import Namespace
from meshd.domain.values import AttemptState, OutcomeReason
from tests.simulation.picture import Picture
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.plan import Plan


def fits(plan: Plan, frame: Assign) -> bool:
    """Return whether an assignment fits; in most worlds each does."""
    return plan.seed % 3 != 0 or crc32(frame.task_id.encode()) % 8 != 0


def check(before: Picture, ns: Namespace, command: c.Unsendable) -> None:
    """The task of an attempt that is still that stream's has ended; of anything else nothing comes."""
    assign = command.assign
    for session, was in before.sessions.items():
        for attempt in was.attempts:
            task = attempt.task
            if task.spec.task_id != assign.task_id:
                continue
            name = task.spec.task_id
            lives = ns.sessions.get(session.session_id) is session
            is_held = lives and attempt.fence in session.held
            if attempt.fence != assign.fence or was.stream is not command.stream:
                # Its grace, its time to be accepted, or its session's to return may have run out in the same turn.
                over = attempt.state is AttemptState.STOPPING or session.deaf or not lives
                if not is_held and not over:
                    raise Violation(f"{name} is taken away because another attempt could not be sent")
            elif is_held or task.attempt_state is AttemptState.STOPPING:
                raise Violation(f"{name} cannot be sent and is still held")
            elif attempt.state is AttemptState.STOPPING:
                if task.outcome is OutcomeReason.NOT_RETRYABLE:
                    raise Violation(f"{name} cannot be sent while it is being stopped, and counts as failed")
            elif not (
                task.outcome is OutcomeReason.NOT_RETRYABLE
                or (task.terminal and (task.deadline_ms or task.spec.execution_timeout_ms))
            ):
                raise Violation(f"{name} cannot be sent and goes on")
