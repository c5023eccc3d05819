"""Drains started and lifted, and attempts handed over to other agents.

Rule: an attempt that is handed over is stopped without a cause of its task's end; when it has stopped, or its grace is
over, it is RETURNED and the task queued again, at no cost to its retries and losses.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd.domain.commands import Drained, LiftDrain, StartDrain
from meshd.domain.drains import Drain, words_for
from meshd.domain.effects import Effects
from meshd.domain.errors import Reason, Refusal
from meshd.domain.handlers.session import settle_drain
from meshd.domain.handlers.submit import hand_over
from meshd.domain.limits import MAX_DRAINS
from meshd.domain.state import Namespace
from meshd.domain.values import Now, Session


def start_drain(ns: Namespace, command: StartDrain, now: Now, out: Effects) -> None:
    """Put a drain in force, unless it is, and hand over what its agents run if asked to."""
    drain = ns.drains.get(command.drain.drain_id)
    changed = drain is None
    if drain is None:
        if len(ns.drains) >= MAX_DRAINS:
            message = f"namespace {ns.name} has {MAX_DRAINS} drains; lift one first (`meshctl drain --list` shows them)"
            out.replies.append((command.ticket, Refusal(Reason.INVALID_ARGUMENT, message, field="selector")))
            return
        drain = command.drain
        ns.drains[drain.drain_id] = drain
        out.writes.drains[ns.name, drain.drain_id] = drain
        for session in _concerned(ns, drain):
            settle_drain(ns, session, session.drained or drain.words, now, out)
    if command.hand_over:
        for session in _concerned(ns, drain):
            for task in list(session.held.values()):
                hand_over(ns, task, command.grace_ms, now, out)
    out.replies.append((command.ticket, Drained(drain, changed)))


def lift_drain(ns: Namespace, command: LiftDrain, now: Now, out: Effects) -> None:
    """Lift a drain. What is being handed over still is; agents that no other drain concerns get work again."""
    drain = ns.drains.pop(command.drain_id, None)
    if drain is not None:
        lifted = drain._replace(lift_ms=now.wall_ms)
        out.writes.drains[ns.name, drain.drain_id] = lifted
        for session in _concerned(ns, drain):
            # Others are drained by an earlier one anyway; to compare each with all drains would take seconds.
            if session.drained == drain.words:
                settle_drain(ns, session, words_for(ns.drains.values(), session.agent.spec), now, out)
    out.replies.append((command.ticket, Drained(drain, drain is not None)))


def _concerned(ns: Namespace, drain: Drain) -> Iterator[Session]:
    return (session for session in ns.sessions.values() if drain.selector.matches(session.agent.spec))
