"""Taking tasks and cancelling them."""

from __future__ import annotations

from copy import copy

from meshd.domain.commands import Cancel, KnownTask, LookAgain, Submit, Submitted
from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Cancel as CancelFrame
from meshd.domain.frames import CancelReason, Feature
from meshd.domain.handlers.attempts import changed, finish
from meshd.domain.limits import RECENT_TASKS
from meshd.domain.state import Namespace, Timer
from meshd.domain.transitions import Event
from meshd.domain.values import (
    AttemptState,
    Now,
    OutcomeReason,
    Task,
    TaskSpec,
    TaskState,
)


def submit(ns: Namespace, command: Submit, now: Now, out: Effects) -> None:
    """Take tasks; one result per spec."""
    if ns.ended_count - command.ended_seen > RECENT_TASKS // 2:
        # Tasks may have ended and left memory since the look into the store.
        out.replies.append((command.ticket, LookAgain()))
        return
    known = command.known
    results = [_submit_one(ns, spec, known, command, now, out) for spec in command.specs]
    out.replies.append((command.ticket, results))


def _submit_one(
    ns: Namespace,
    spec: TaskSpec,
    known: dict[str, KnownTask],
    command: Submit,
    now: Now,
    out: Effects,
) -> Submitted | Refusal:
    existing = ns.tasks.get(spec.task_id) or ns.recent.get(spec.task_id)
    stored = known.get(spec.task_id) if existing is None else None
    if existing is not None or stored is not None:
        digest = existing.spec.digest if existing is not None else stored.digest if stored else b""
        if digest != spec.digest:
            return Refusal(
                Reason.TASK_EXISTS,
                "a task of this id has other content; choose another task id",
                field="spec.task_id",
            )
        return Submitted(spec.task_id, True, copy(existing) if command.copies else None)
    task = _new_task(ns, spec, command.submitter, now)
    ns.tasks[spec.task_id] = task
    out.writes.new_tasks[task.key] = task
    out.writes.payload_bytes += task.payload_bytes
    out.changed.append(task)
    out.count("submitted")
    if task.deadline_ms:
        ns.arm(now.mono + spec.timeout_ms / 1000, Timer.DEADLINE, task)
    if task.queue_deadline_ms:
        ns.arm(now.mono + spec.queue_timeout_ms / 1000, Timer.QUEUE_DEADLINE, task)
    ns.enqueue(task)
    return Submitted(spec.task_id, False, copy(task) if command.copies else None)


def _new_task(ns: Namespace, spec: TaskSpec, submitter: str, now: Now) -> Task:
    return Task(
        key=ns.keys.next(),
        namespace=ns.name,
        spec=spec,
        incarnation=ns.rng.getrandbits(64),
        state=TaskState.QUEUED,
        submit_ms=now.wall_ms,
        submitter=submitter,
        payload_bytes=len(spec.payload),
        deadline_ms=now.wall_ms + spec.timeout_ms if spec.timeout_ms else 0,
        queue_deadline_ms=now.wall_ms + spec.queue_timeout_ms if spec.queue_timeout_ms else 0,
    )


def cancel(ns: Namespace, command: Cancel, now: Now, out: Effects) -> None:
    """Ask for the end of a task: at once when no agent holds it, else by telling the agent."""
    task = ns.tasks.get(command.task_id)
    if task is None:
        ended = ns.recent.get(command.task_id)
        reply = copy(ended) if ended is not None else task_not_found(ns.name, command.task_id)
        out.replies.append((command.ticket, reply))
        return
    if not task.cancel_ms:
        task.cancel_ms = now.wall_ms
        stop(ns, task, OutcomeReason.CANCEL_REQUESTED, command.grace_ms, now, out)
    out.replies.append((command.ticket, copy(task)))


def stop(
    ns: Namespace,
    task: Task,
    cause: OutcomeReason,
    grace_ms: int,
    now: Now,
    out: Effects,
) -> None:
    """Stop an open task for ``cause``; an attempt under way gets ``grace_ms`` to end."""
    if task.state in (TaskState.WAITING, TaskState.QUEUED):
        event = Event.CANCEL if cause is OutcomeReason.CANCEL_REQUESTED else Event.EXPIRE
        finish(ns, task, event, cause, now, out)
        return
    if task.attempt_state is AttemptState.STOPPING:
        # A cancel or the task's own deadline outranks the timeout of one attempt, which would try again, and the end
        # of one attempt that is handed over, which would begin another.
        before = task.cancel_cause, task.cancel_grace_ms
        if task.cancel_cause in (OutcomeReason.EXECUTION_TIMEOUT, OutcomeReason.NONE):
            task.cancel_cause = cause
        if grace_ms < task.cancel_grace_ms:
            _give_grace(ns, task, grace_ms, now)
        if (task.cancel_cause, task.cancel_grace_ms) != before or cause is OutcomeReason.CANCEL_REQUESTED:
            changed(task, out)
        return
    _stop_attempt(ns, task, cause, grace_ms, now, out)


def hand_over(ns: Namespace, task: Task, grace_ms: int, now: Now, out: Effects) -> None:
    """Stop an attempt so that another agent gets its task; one that is being stopped already goes its way."""
    if task.attempt_state is not AttemptState.STOPPING:
        _stop_attempt(ns, task, OutcomeReason.NONE, grace_ms, now, out)
    elif task.cancel_cause is OutcomeReason.NONE and grace_ms < task.cancel_grace_ms:
        # Asked again: the grace can only become shorter.
        _give_grace(ns, task, grace_ms, now)
        changed(task, out)


def _stop_attempt(
    ns: Namespace,
    task: Task,
    cause: OutcomeReason,
    grace_ms: int,
    now: Now,
    out: Effects,
) -> None:
    task.attempt_state = AttemptState.STOPPING
    task.cancel_cause = cause
    _give_grace(ns, task, grace_ms, now)
    changed(task, out)
    session = ns.sessions[task.session_id]
    if Feature.CANCEL in session.features:
        out.sends.append((session.stream, cancel_frame(task)))


def _give_grace(ns: Namespace, task: Task, grace_ms: int, now: Now) -> None:
    """Let a stopping attempt have so long from now on; an earlier end that was set still counts."""
    task.cancel_grace_ms = grace_ms
    ns.arm(now.mono + grace_ms / 1000, Timer.GRACE, task, task.attempt)


_CANCEL_REASONS = {
    OutcomeReason.NONE: CancelReason.HAND_OVER,
    OutcomeReason.CANCEL_REQUESTED: CancelReason.REQUESTED,
    OutcomeReason.TIMEOUT: CancelReason.DEADLINE,
    OutcomeReason.EXECUTION_TIMEOUT: CancelReason.DEADLINE,
}


def cancel_frame(task: Task) -> CancelFrame:
    """Return the frame that tells the agent to stop the present attempt."""
    return CancelFrame(task.fence, _CANCEL_REASONS[task.cancel_cause], task.cancel_grace_ms)


def task_not_found(namespace: str, task_id: str) -> Refusal:
    """Return the refusal for an unknown task."""
    return Refusal(
        Reason.TASK_NOT_FOUND,
        f"no task {task_id} in namespace {namespace}; `meshctl task list --namespace {namespace}` shows its tasks",
    )
