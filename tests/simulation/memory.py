"""The oracle's account of memory: what has ended does not stay because of what waits before it.

Worlds have a bound of their own for the few entries that may be kept (``world.FEW_ENTRIES``).
"""

from __future__ import annotations

from typing import Final

from meshd.domain.state import Namespace
from meshd.domain.values import Session, TaskState
from tests.simulation.violation import Violation

MOST_PER_NEEDED: Final = 2
SPARE: Final = 12


def check_kept(ns: Namespace) -> None:
    """The timers and the queues keep at most twice what is needed, and a few."""
    needed = 0
    for _, _, _, subject, attempt in ns.timers:
        if isinstance(subject, Session):
            needed += 1
        else:
            needed += not subject.terminal and attempt in (0, subject.attempt)
    if len(ns.timers) > MOST_PER_NEEDED * needed + SPARE:
        raise Violation(f"{len(ns.timers)} timers are kept for {needed}")
    for pool in ns.pools.busy:
        needed = sum(task.state is TaskState.QUEUED for task in pool.queue)
        if len(pool.queue) > MOST_PER_NEEDED * needed + SPARE:
            raise Violation(f"{len(pool.queue)} entries of a queue are kept for {needed} tasks")
