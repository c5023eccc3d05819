"""Dispatch: hands queued tasks to free slots, in exact queue order.

Rule: the task to go next is the head with the highest priority, then the lowest key, over all pools that have a free
slot. While a queue is at least as long as its pool's free slots, a chosen session is kept for up to CHUNK_DRAWS draws.
"""

from __future__ import annotations

import heapq

from meshd.domain.effects import Effects
from meshd.domain.handlers.attempts import assign
from meshd.domain.limits import CHUNK_DRAWS
from meshd.domain.placement.choice import choose, declines, has_preferences
from meshd.domain.placement.pools import Pool
from meshd.domain.state import Namespace
from meshd.domain.values import Now, Session, Task

MAX_SET_ASIDE = 64
"""Tasks that every free agent declined and that are passed over in one round."""

type_order = tuple[int, int]


def _order(task: Task) -> type_order:
    return (-task.spec.priority, task.key)


def dispatch(ns: Namespace, now: Now, out: Effects) -> None:
    """Hand out what can be handed out."""
    ns.must_dispatch = False
    ready: list[tuple[type_order, int, Pool]] = []
    for number, pool in enumerate(list(ns.pools.busy)):
        head = pool.queue.head()
        if head is None:
            del ns.pools.busy[pool]
        elif pool.available:
            ready.append((_order(head), number, pool))
    heapq.heapify(ready)
    while ready:
        _, number, pool = heapq.heappop(ready)
        _serve(ns, pool, ready[0][0] if ready else None, now, out)
        head = pool.queue.head()
        if head is not None and pool.available and not _all_declined(pool, head, now):
            heapq.heappush(ready, (_order(head), number, pool))


def _serve(ns: Namespace, pool: Pool, until: type_order | None, now: Now, out: Effects) -> None:
    """Draw from one pool while its head goes before ``until``."""
    deep = pool.is_deep()
    kept: Session | None = None
    draws = 0
    set_aside: list[Task] = []
    queue = pool.queue
    while pool.available and len(set_aside) < MAX_SET_ASIDE:
        task = queue.head()
        if task is None or (until is not None and _order(task) > until):
            break
        if (
            kept is None
            or draws >= CHUNK_DRAWS
            or kept not in pool.available
            or has_preferences(task)
            or declines(task, kept, now.mono)
        ):
            kept = choose(pool, task, now.mono)
            draws = 0
        queue.pop()
        if kept is None:
            set_aside.append(task)
            continue
        assign(ns, task, kept, now, out)
        ns.pools.update(kept)
        draws += 1
        if not deep:
            kept = None
    for task in set_aside:
        queue.push(task)


def _all_declined(pool: Pool, task: Task, now: Now) -> bool:
    return task.declined is not None and all(declines(task, s, now.mono) for s in pool.available)
