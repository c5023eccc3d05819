"""What becomes due: deadlines, retries, accept timeouts, broken connections, expired leases."""

from __future__ import annotations

from typing import Final

from meshd.domain.effects import Effects
from meshd.domain.handlers.attempts import changed, void
from meshd.domain.handlers.session import deaf, lose_session, suspect
from meshd.domain.handlers.submit import stop
from meshd.domain.limits import DEFAULT_GRACE_MS
from meshd.domain.state import Namespace, Timer
from meshd.domain.transitions import Event, advance
from meshd.domain.values import (
    AttemptState,
    Now,
    OutcomeReason,
    Session,
    Task,
    TaskState,
)

QUEUE_RECHECK_S: Final = 1.0
ASSIGNED_STATES: Final = (TaskState.ASSIGNED, TaskState.RUNNING)


def run_timers(ns: Namespace, now: Now, out: Effects) -> None:
    """Handle everything that is due."""
    while ns.accept_due and ns.accept_due[0][0] <= now.mono:
        _, session, stream, fences = ns.accept_due.popleft()
        deaf(ns, session, stream, fences, now, out)
    while (due := ns.pop_due(now.mono)) is not None:
        kind, subject, attempt = due
        if isinstance(subject, Task):
            if not subject.terminal:
                _task_timer(ns, kind, subject, attempt, now, out)
        else:
            _broken(ns, subject, now, out)


def _task_timer(ns: Namespace, kind: Timer, task: Task, attempt: int, now: Now, out: Effects) -> None:
    if kind is Timer.DEADLINE:
        stop(ns, task, OutcomeReason.TIMEOUT, DEFAULT_GRACE_MS, now, out)
    elif kind is Timer.QUEUE_DEADLINE:
        _queue_deadline(ns, task, now, out)
    elif kind is Timer.DISPATCH:
        # An agent that declined it may be asked again.
        ns.must_dispatch = True
    elif task.attempt != attempt:
        return
    elif kind is Timer.RETRY:
        if task.state is TaskState.WAITING:
            advance(task, Event.READY)
            task.next_attempt_ms = 0
            changed(task, out)
            ns.enqueue(task)
    elif kind is Timer.EXECUTION:
        if task.state in ASSIGNED_STATES and task.attempt_state is not AttemptState.STOPPING:
            stop(ns, task, OutcomeReason.EXECUTION_TIMEOUT, DEFAULT_GRACE_MS, now, out)
    elif task.attempt_state is AttemptState.STOPPING:
        # Its grace is over.
        void(ns, task, now, out)


def _queue_deadline(ns: Namespace, task: Task, now: Now, out: Effects) -> None:
    if task.taken:
        return
    if task.state in ASSIGNED_STATES:
        # On its way to an agent that has not taken it yet: look again.
        ns.arm(now.mono + QUEUE_RECHECK_S, Timer.QUEUE_DEADLINE, task)
        return
    stop(ns, task, OutcomeReason.QUEUE_TIMEOUT, 0, now, out)


def _broken(ns: Namespace, session: Session, now: Now, out: Effects) -> None:
    over = session.session_id not in ns.sessions or session.stream is not None
    early = now.mono - session.broken_mono < ns.rules.lost_after_ms / 1000 - 0.001
    if not over and not early and ns.fleet.broken_for_good(session, now.mono):
        lose_session(
            ns,
            session,
            "connection",
            "its connection ended and it did not return",
            now,
            out,
        )


def sweep(ns: Namespace, expired: list[Session], silent: list[Session], now: Now, out: Effects) -> None:
    """End the expired sessions; suspect those of the silent ones whose beat is late."""
    for session in expired:
        hold = session.stream is None and not session.broken_mono
        cause = "hold" if hold else "ttl"
        words = "it did not return after the restart" if hold else "no sign of life within its lease"
        lose_session(ns, session, cause, words, now, out)
    for session in silent:
        late_s = 2 * session.lease.beat_interval_ms / 1000
        if now.mono - session.last_seen_mono > late_s:
            suspect(ns, session, now, out)
