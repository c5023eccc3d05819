"""The machine of one namespace: commands in, effects out. Pure, deterministic, single-threaded.

``handle`` applies a batch in order, then whatever is due, then hands out work once for all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshd.domain import commands as c
from meshd.domain.effects import Effects
from meshd.domain.handlers import admin, drain, report, session, submit
from meshd.domain.handlers.assign import dispatch
from meshd.domain.handlers.tick import run_timers, sweep
from meshd.domain.state import Namespace
from meshd.domain.values import Now, Session

HANDLERS: Final[dict[type, Callable[..., None]]] = {
    c.Submit: submit.submit,
    c.Cancel: submit.cancel,
    c.Register: session.register,
    c.Deregister: session.deregister,
    c.OpenStream: session.open_stream,
    c.Frames: session.frames,
    c.Unsendable: report.unsendable,
    c.StreamEnded: session.stream_ended,
    c.Declare: admin.declare,
    c.RevokeAgent: admin.revoke_agent,
    c.StartDrain: drain.start_drain,
    c.LiftDrain: drain.lift_drain,
}


def handle(ns: Namespace, batch: list[c.Command], now: Now, out: Effects) -> None:
    """Apply commands in order, then timers, then dispatch. Everything that happens is added to ``out``."""
    for command in batch:
        HANDLERS[type(command)](ns, command, now, out)
    run_timers(ns, now, out)
    if ns.must_dispatch:
        dispatch(ns, now, out)


def expire(ns: Namespace, expired: list[Session], silent: list[Session], now: Now, out: Effects) -> None:
    """Apply a sweep of leases; ``expired`` and ``silent`` are those of this namespace that the fleet found."""
    sweep(ns, expired, silent, now, out)
    handle(ns, [], now, out)
