"""Counts of one namespace, for people and gauges.

Rule: the cost grows with agents, held attempts and requirement sets, never with the backlog: the loop waits meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshd.domain.placement.pools import Pool
from meshd.domain.state import Namespace
from meshd.domain.values import TaskState


def open_tasks(ns: Namespace) -> dict[TaskState, int]:
    """Return how many open tasks are in each state."""
    queued = sum(pool.queue.size for pool in ns.pools.busy)
    held = running = 0
    for session in ns.sessions.values():
        held += len(session.held)
        running += sum(task.state is TaskState.RUNNING for task in session.held.values())
    return {
        TaskState.WAITING: len(ns.tasks) - queued - held,
        TaskState.QUEUED: queued,
        TaskState.ASSIGNED: held - running,
        TaskState.RUNNING: running,
    }


def oldest_queued_ms(ns: Namespace) -> int | None:
    """Return the wall time at which the oldest queued task was submitted; None without one."""
    firsts = [task.submit_ms for pool in ns.pools.busy for task in pool.queue.firsts()]
    return min(firsts, default=None)


def without_takers(ns: Namespace) -> Iterator[Pool]:
    """Yield the requirement sets with queued tasks that no agent alive can take."""
    return (pool for pool in ns.pools.busy if not pool.served)
