"""What agents say about attempts. A report counts only with the fence of an attempt the session holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshd.domain import frames as f
from meshd.domain.commands import Unsendable
from meshd.domain.effects import Effects
from meshd.domain.handlers.attempts import (
    accepted,
    conclude_stop,
    fail,
    finish,
    release,
    requeue,
)
from meshd.domain.limits import MAX_PAYLOAD_BYTES
from meshd.domain.state import Namespace, Timer
from meshd.domain.transitions import Event
from meshd.domain.values import AttemptState, Failure, Now, OutcomeReason, Session, Task

DEFAULT_DECLINE_MS: Final = 1_000


def _accept(ns: Namespace, session: Session, task: Task, frame: f.Accept, now: Now, out: Effects) -> None:
    accepted(ns, task, now)


def _decline(
    ns: Namespace,
    session: Session,
    task: Task,
    frame: f.Decline,
    now: Now,
    out: Effects,
) -> None:
    release(ns, session, task)
    if task.attempt_state is AttemptState.STOPPING:
        conclude_stop(ns, task, now, out)
        return
    _give_back(ns, task, frame.retry_in_ms or DEFAULT_DECLINE_MS, now, out)
    out.count("declined")


def _give_back(ns: Namespace, task: Task, pause_ms: int, now: Now, out: Effects) -> None:
    """Queue a task that its agent did not keep; not for that agent again before the pause is over."""
    pause_s = pause_ms / 1000
    if task.declined is None:
        task.declined = {}
    task.declined[task.agent_id] = now.mono + pause_s
    ns.arm(now.mono + pause_s, Timer.DISPATCH, task)
    requeue(ns, task, AttemptState.RETURNED, now, out)


def _progress(
    ns: Namespace,
    session: Session,
    task: Task,
    frame: f.Progress,
    now: Now,
    out: Effects,
) -> None:
    accepted(ns, task, now)
    if task.progress is None or frame.seq > task.progress[1]:
        task.progress = (task.attempt, frame.seq, frame.fraction, frame.message)
        out.progress.append(task)


def _output(ns: Namespace, session: Session, task: Task, frame: f.Output, now: Now, out: Effects) -> None:
    accepted(ns, task, now)
    out.output.append((task.key, task.attempt, task.agent_id, frame.seq, frame.chunk))


def _done(ns: Namespace, session: Session, task: Task, frame: f.Done, now: Now, out: Effects) -> None:
    release(ns, session, task)
    task.attempt_state = AttemptState.SUCCEEDED
    out.writes.outputs.append((task.key, frame.output))
    out.writes.payload_bytes += len(frame.output)
    finish(ns, task, Event.SUCCEED, OutcomeReason.COMPLETED, now, out)
    session.agent.succeeded += 1
    out.sends.append((session.stream, f.Ack(frame.fence)))


def _fail(ns: Namespace, session: Session, task: Task, frame: f.Fail, now: Now, out: Effects) -> None:
    release(ns, session, task)
    session.agent.failed += 1
    if task.attempt_state is AttemptState.STOPPING:
        conclude_stop(ns, task, now, out)
    else:
        failure = Failure(frame.type, frame.message, frame.retryable)
        fail(ns, task, failure, OutcomeReason.RETRIES_EXHAUSTED, now, out)
    out.sends.append((session.stream, f.Ack(frame.fence)))


def _stopped(
    ns: Namespace,
    session: Session,
    task: Task,
    frame: f.Stopped,
    now: Now,
    out: Effects,
) -> None:
    release(ns, session, task)
    if task.attempt_state is AttemptState.STOPPING:
        conclude_stop(ns, task, now, out)
    else:
        # Nobody told it to stop: it would stop the same task again at once.
        _give_back(ns, task, DEFAULT_DECLINE_MS, now, out)
    out.sends.append((session.stream, f.Ack(frame.fence)))


HANDLERS: Final[dict[type, Callable[..., None]]] = {
    f.Accept: _accept,
    f.Decline: _decline,
    f.Progress: _progress,
    f.Output: _output,
    f.Done: _done,
    f.Fail: _fail,
    f.Stopped: _stopped,
}


def unsendable(ns: Namespace, command: Unsendable, now: Now, out: Effects) -> None:
    """End the task of an assignment that cannot be sent: it would be tried on every stream, and with every agent."""
    session = next((s for s in ns.sessions.values() if s.stream is command.stream), None)
    if session is None:
        return
    fence = command.assign.fence
    task = session.held.get(fence)
    if task is None:
        # Void by now. It never left, so nothing of it runs.
        if fence in session.quarantine:
            session.quarantine.discard(fence)
            ns.free_slot_changed(session)
        return
    release(ns, session, task)
    if task.attempt_state is AttemptState.STOPPING:
        conclude_stop(ns, task, now, out)
        return
    words = (
        f"its payload of {task.payload_bytes} bytes does not fit into the {command.limit_bytes} that "
        f"agent {task.agent_id} receives at once; submit a new task with at most {MAX_PAYLOAD_BYTES}"
    )
    fail(ns, task, Failure("PayloadTooLarge", words, False), OutcomeReason.NOT_RETRYABLE, now, out)


ENDS: Final = (f.Done, f.Fail, f.Stopped, f.Decline)
"""Reports after which the agent no longer runs the attempt."""


def report(ns: Namespace, session: Session, frame: f.UpFrame, now: Now, out: Effects) -> None:
    """Apply one fenced frame, or refuse it when its fence is not one the session holds."""
    fence: bytes = frame.fence  # type: ignore[union-attr]  # only fenced frames have a handler here
    task = session.held.get(fence)
    if task is not None:
        if session.deaf_count and not task.accept_ms:
            # Not by what it says of others: a handler may report though nobody reads what the mesh sends.
            session.deaf_count, session.deaf_until_mono = 0, 0.0
        HANDLERS[type(frame)](ns, session, task, frame, now, out)
        return
    out.count("stale")
    if fence in session.quarantine and isinstance(frame, ENDS):
        # The fence is void, but now the handler is known to have ended: the slot is free again.
        session.quarantine.discard(fence)
        ns.free_slot_changed(session)
        out.sends.append((session.stream, f.Ack(fence)))
        return
    out.sends.append((session.stream, f.Revoke(fence)))
