"""The oracle's account of what the disk keeps: the rows of every task agree with each other, and with what is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meshd.domain.values import AttemptState, OutcomeReason, Task, TaskState
from meshd.store import rows
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

HELD_STATES: Final = (TaskState.ASSIGNED, TaskState.RUNNING)
ON_ITS_OWN_ROW: Final = (TaskState.ASSIGNED, TaskState.RUNNING, TaskState.SUCCEEDED)
"""The present attempt of such a task, and one that succeeded, is part of the task's own row."""


class Durable:
    """What became durable in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ended: dict[int, OutcomeReason] = {}
        """key -> outcome of tasks whose end is durable."""

    def written(self, tasks: list[Task]) -> None:
        """Check what became durable: the rows of every task agree with each other."""
        disk = self.world.disk
        for task in tasks:
            name = task.spec.task_id
            attempts = disk.attempts.get(task.key, {})
            ended = self.ended.get(task.key)
            if ended is not None:
                raise Violation(f"P3: {name} had ended as {ended.name} and was changed afterwards")
            if any(number not in attempts for number in range(1, len(attempts) + 1)):
                raise Violation(f"{name} has a hole in its attempts: {sorted(attempts)}")
            # An attempt that succeeded is part of its task's own row.
            own_row = task.state in ON_ITS_OWN_ROW
            if task.attempt != len(attempts) + own_row:
                raise Violation(f"{name} is {task.state.name} at {task.attempt}, {len(attempts)} ended")
            failures = sum(a.state is AttemptState.FAILED for a in attempts.values())
            if task.failures != failures:
                raise Violation(f"{name} counts {task.failures} failures, its attempts {failures}")
            lost = sum(a.state is AttemptState.LOST for a in attempts.values())
            if task.losses > lost:
                raise Violation(f"{name} counts {task.losses} losses, its attempts {lost}")
            if task.terminal:
                self._check_end(task)
                self.ended[task.key] = task.outcome
            elif task.failures > task.spec.retry.max_retries or task.losses >= task.spec.max_losses:
                raise Violation(f"{name} goes on after {task.failures} failures, {task.losses} losses")
            if (task.outcome is OutcomeReason.NONE) is task.terminal:
                raise Violation(f"{name} is {task.state.name} with outcome {task.outcome.name}")

    def _check_end(self, task: Task) -> None:
        name = task.spec.task_id
        output = self.world.disk.outputs.get(task.key)
        good = {
            OutcomeReason.COMPLETED: task.state is TaskState.SUCCEEDED
            and task.attempt_state is AttemptState.SUCCEEDED,
            OutcomeReason.RETRIES_EXHAUSTED: task.state is TaskState.FAILED
            and task.failures == task.spec.retry.max_retries + 1,
            OutcomeReason.EXECUTION_TIMEOUT: task.state is TaskState.FAILED
            and task.failures == task.spec.retry.max_retries + 1
            and task.spec.execution_timeout_ms > 0,
            OutcomeReason.NOT_RETRYABLE: task.state is TaskState.FAILED
            and task.failure is not None
            and not task.failure.retryable,
            OutcomeReason.POISON: task.state is TaskState.FAILED and task.losses == task.spec.max_losses,
            OutcomeReason.CANCEL_REQUESTED: task.state is TaskState.CANCELLED and task.cancel_ms > 0,
            OutcomeReason.TIMEOUT: task.state is TaskState.EXPIRED and task.deadline_ms > 0,
            OutcomeReason.QUEUE_TIMEOUT: task.state is TaskState.EXPIRED
            and task.queue_deadline_ms > 0
            and not task.failures
            and not task.losses
            and task.key not in self.world.oracle.timing.ran,
        }[task.outcome]
        if not good:
            raise Violation(f"{name} ended as {task.state.name}/{task.outcome.name} against its record")
        if (output is not None) is not (task.state is TaskState.SUCCEEDED):
            raise Violation(f"{name} ended as {task.state.name} and its result does not fit that")
        fence = task.incarnation.to_bytes(8, "big") + task.attempt.to_bytes(4, "big")
        if output is not None and fence not in output:
            raise Violation(f"P2: the result of {name} is another attempt's")
        early = [task.outcome is OutcomeReason.TIMEOUT and task.end_ms < task.deadline_ms]
        early.append(task.outcome is OutcomeReason.QUEUE_TIMEOUT and task.end_ms < task.queue_deadline_ms)
        if any(early) and not self.world.jumped:
            raise Violation(f"{name} expired before its time")

    def check_written(self, task: Task) -> None:
        """While nothing waits for the disk, all is there that is durable of a task; acceptance is not."""
        row = rows.task_changes(task)
        durable = self.world.disk.tasks.get(task.key, ())[: len(row)]
        if _lasting(row) != _lasting(durable):
            raise Violation(f"{task.spec.task_id} is {row} in memory and {durable} on the disk")


def _lasting(row: tuple[Any, ...]) -> list[Any]:
    """Return a task's row without acceptance, which is not durable: neither the task's nor the attempt's."""
    runs = {+TaskState.RUNNING: +TaskState.ASSIGNED}
    started = {+AttemptState.RUNNING: +AttemptState.ASSIGNED}
    return [row[0], runs.get(row[1], row[1]), *row[2:13], started.get(row[13], row[13]), *row[14:]]
