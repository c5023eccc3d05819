"""The life of an attempt: handed out, ended, and what its end means for the task.

Rule: every function here leaves task, session and pools agreeing (see ``state``), and notes each durable change once.
"""

from __future__ import annotations

from meshd.domain.effects import Effects
from meshd.domain.frames import Assign, Feature, Revoke
from meshd.domain.retry import backoff_ms
from meshd.domain.state import Namespace, Timer
from meshd.domain.transitions import Event, advance
from meshd.domain.values import (
    AttemptState,
    EndedAttempt,
    Failure,
    Now,
    OutcomeReason,
    Session,
    Task,
)


def fence_of(task: Task) -> bytes:
    """Return the fence of the task's present attempt: incarnation and attempt number."""
    return task.incarnation.to_bytes(8, "big") + task.attempt.to_bytes(4, "big")


def assignment(task: Task) -> Assign:
    """Return the frame that hands the present attempt to its agent."""
    spec = task.spec
    deadline_ms = task.deadline_ms
    if spec.execution_timeout_ms:
        own_ms = (task.accept_ms or task.assign_ms) + spec.execution_timeout_ms
        deadline_ms = min(deadline_ms, own_ms) if deadline_ms else own_ms
    return Assign(
        task.fence,
        task.fence_number,
        task.key,
        spec.task_id,
        spec.task_type,
        task.attempt,
        task.payload_bytes,
        deadline_ms,
        spec.traceparent,
        spec.context_id,
    )


def changed(task: Task, out: Effects) -> None:
    """Note a durable change of a task."""
    task.generation += 1
    out.writes.task_changed(task)
    out.changed.append(task)


def assign(ns: Namespace, task: Task, session: Session, now: Now, out: Effects) -> None:
    """Hand a task that was drawn from its queue to a session with a free slot."""
    advance(task, Event.ASSIGN)
    task.attempt += 1
    if task.attempt > 1:
        # What timed the attempt before means nothing any more, and a task may begin anew without end.
        ns.timers.sweep()
    task.attempt_state = AttemptState.ASSIGNED
    task.agent_id = session.agent.spec.agent_id
    task.session_id = session.session_id
    task.fence_number = ns.next_fence_number()
    task.fence = fence_of(task)
    task.assign_ms = now.wall_ms
    task.accept_ms = 0
    task.progress = None
    session.held[task.fence] = task
    changed(task, out)
    out.sends.append((session.stream, assignment(task)))
    out.count("assigned")
    if Feature.ACCEPT not in session.features:
        accepted(ns, task, now)


def accepted(ns: Namespace, task: Task, now: Now) -> None:
    """Note that the agent took the attempt. Not durable."""
    if task.attempt_state is not AttemptState.ASSIGNED:
        return
    advance(task, Event.ACCEPT)
    task.attempt_state = AttemptState.RUNNING
    task.accept_ms = now.wall_ms
    task.taken = True
    if task.spec.execution_timeout_ms:
        ns.arm(
            now.mono + task.spec.execution_timeout_ms / 1000,
            Timer.EXECUTION,
            task,
            task.attempt,
        )


def record_attempt(task: Task, now: Now, out: Effects, failure: Failure | None = None) -> None:
    """Record the attempt that just ended; one that succeeded needs none, it is part of its task's own row."""
    out.writes.attempts.append(
        EndedAttempt(
            task.key,
            task.attempt,
            task.agent_id,
            task.attempt_state,
            task.fence_number,
            task.assign_ms,
            now.wall_ms,
            failure,
        )
    )


def release(ns: Namespace, session: Session, task: Task) -> None:
    """Take the present attempt from its session; its slot is free."""
    del session.held[task.fence]
    ns.free_slot_changed(session)


def finish(
    ns: Namespace,
    task: Task,
    event: Event,
    outcome: OutcomeReason,
    now: Now,
    out: Effects,
) -> None:
    """End a task for good."""
    ns.unqueue(task)
    advance(task, event)
    task.outcome = outcome
    task.end_ms = now.wall_ms
    task.next_attempt_ms = 0
    ns.archive(task)
    changed(task, out)
    how = task.state, outcome
    out.ended[how] = out.ended.get(how, 0) + 1


def requeue(ns: Namespace, task: Task, state: AttemptState, now: Now, out: Effects) -> None:
    """Put a task whose attempt ended, in ``state``, at no fault of its own back to its place in the queue."""
    task.attempt_state = state
    record_attempt(task, now, out)
    advance(task, Event.RETURN)
    changed(task, out)
    ns.enqueue(task)


def fail(
    ns: Namespace,
    task: Task,
    failure: Failure,
    exhausted: OutcomeReason,
    now: Now,
    out: Effects,
) -> None:
    """Record a failed attempt: try again later, or end the task with ``exhausted``."""
    task.attempt_state = AttemptState.FAILED
    record_attempt(task, now, out, failure)
    task.failure = failure
    task.failures += 1
    task.taken = True
    task.cancel_cause = OutcomeReason.NONE
    if not failure.retryable:
        finish(ns, task, Event.FAIL, OutcomeReason.NOT_RETRYABLE, now, out)
    elif task.failures > task.spec.retry.max_retries:
        finish(ns, task, Event.FAIL, exhausted, now, out)
    else:
        pause_ms = backoff_ms(task.spec.retry, task.failures, ns.rng)
        advance(task, Event.BACKOFF)
        task.next_attempt_ms = now.wall_ms + pause_ms
        changed(task, out)
        ns.arm(now.mono + pause_ms / 1000, Timer.RETRY, task, task.attempt)


def conclude_stop(ns: Namespace, task: Task, now: Now, out: Effects) -> None:
    """End a task, or only its attempt, that was being stopped and is now. The slot was dealt with before."""
    cause = task.cancel_cause
    if cause is OutcomeReason.EXECUTION_TIMEOUT:
        timeout_ms = task.spec.execution_timeout_ms
        failure = Failure("ExecutionTimeout", f"the attempt ran longer than {timeout_ms} ms", True)
        fail(ns, task, failure, OutcomeReason.EXECUTION_TIMEOUT, now, out)
        return
    if cause is OutcomeReason.NONE:
        # Handed over: the task goes on elsewhere.
        requeue(ns, task, AttemptState.RETURNED, now, out)
        return
    task.attempt_state = AttemptState.CANCELLED
    record_attempt(task, now, out)
    event = Event.EXPIRE if cause is OutcomeReason.TIMEOUT else Event.CANCEL
    finish(ns, task, event, cause, now, out)


def void(ns: Namespace, task: Task, now: Now, out: Effects) -> None:
    """Make the fence of an attempt that did not stop in time void; its slot stays taken until the agent says so."""
    session = ns.sessions[task.session_id]
    del session.held[task.fence]
    session.quarantine.add(task.fence)
    out.sends.append((session.stream, Revoke(task.fence)))
    conclude_stop(ns, task, now, out)


def lose(ns: Namespace, session: Session, now: Now, out: Effects, *, by_death: bool) -> None:
    """Take every attempt from a session that is over; ``by_death`` counts against the poison cap."""
    for task in session.held.values():
        if task.attempt_state is AttemptState.STOPPING:
            conclude_stop(ns, task, now, out)
            continue
        task.losses += by_death and task.attempt_state is AttemptState.RUNNING
        if task.losses >= task.spec.max_losses:
            task.attempt_state = AttemptState.LOST
            record_attempt(task, now, out)
            task.failure = Failure("AgentLost", f"{task.losses} agents died while running it", False)
            finish(ns, task, Event.FAIL, OutcomeReason.POISON, now, out)
        else:
            requeue(ns, task, AttemptState.LOST, now, out)
