"""Single steps of tasks, read from the batch that was written: for logs and spans, when somebody asks for them.

What one batch both begins and undoes (an attempt handed out and lost before anything was written) shows by its end
only. Accept and progress are not durable and no steps.
"""

from __future__ import annotations

from itertools import chain

from meshd.domain.records import Writes
from meshd.domain.values import AttemptState, EndedAttempt, OutcomeReason, Task, TaskState
from meshd.ports.task_steps import Step, TaskStep

ENDS = {
    AttemptState.FAILED: Step.FAILED,
    AttemptState.LOST: Step.LOST,
    AttemptState.RETURNED: Step.RETURNED,
    AttemptState.CANCELLED: Step.STOPPED,
}


def steps_of(writes: Writes) -> list[TaskStep]:
    """Return the steps a batch makes durable; called when it is closed, before its tasks change again."""
    ended_of: dict[int, list[EndedAttempt]] = {}
    for ended in writes.attempts:
        ended_of.setdefault(ended.task_key, []).append(ended)
    steps = []
    for task in chain(writes.new_tasks.values(), writes.changed_tasks.values()):
        if task.key in writes.new_tasks:
            steps.append(TaskStep(Step.SUBMITTED, task, 0, "", task.spec.task_type))
        for ended in ended_of.get(task.key, ()):
            step = ENDS.get(ended.state)
            if step is not None:
                failure = ended.failure.type if ended.failure is not None else ""
                steps.append(TaskStep(step, task, ended.number, ended.agent_id, failure))
        present = _present(task)
        if present is not None:
            steps.append(present)
    return steps


def _present(task: Task) -> TaskStep | None:
    """Return the step that led to the task's present state; None while it waits again, which its last end told."""
    if task.terminal:
        detail = f"{task.state.name}/{task.outcome.name}".lower()
        return TaskStep(Step.ENDED, task, task.attempt, task.agent_id, detail)
    if task.state in (TaskState.WAITING, TaskState.QUEUED):
        return None
    stopping = task.attempt_state is AttemptState.STOPPING
    cause = task.cancel_cause.name.lower() if task.cancel_cause is not OutcomeReason.NONE else ""
    return TaskStep(Step.STOPPING if stopping else Step.ASSIGNED, task, task.attempt, task.agent_id, cause)
