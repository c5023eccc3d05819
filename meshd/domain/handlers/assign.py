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
    for number, pool in enumerate(list(ns.pools.ready)):
        head = pool.queue.head()
        if head is not None and pool.available:
            ready.append((_order(head), number, pool))
        else:
            del ns.pools.ready[pool]
    heapq.heapify(ready)
    # Until the end of the round: a task that everybody declined must not hold back those behind it.
    set_aside: dict[Pool, list[Task]] = {}
    while ready:
        _, number, pool = heapq.heappop(ready)
        declined = set_aside.setdefault(pool, [])
        _serve(ns, pool, ready[0][0] if ready else None, declined, now, out)
        head = pool.queue.head()
        if head is not None and pool.available and len(declined) < MAX_SET_ASIDE:
            heapq.heappush(ready, (_order(head), number, pool))
    for pool, declined in set_aside.items():
        for task in declined:
            pool.queue.push(task)
        ns.pools.drawn(pool)


def _serve(
    ns: Namespace, pool: Pool, until: type_order | None, set_aside: list[Task], now: Now, out: Effects
) -> None:
    """Draw from one pool while its head goes before ``until``; what every free agent declined is set aside."""
    deep = pool.is_deep()
    kept: Session | None = None
    draws = 0
    queue = pool.queue
    while pool.available and len(set_aside) < MAX_SET_ASIDE:
        task = queue.head()
        if task is None or (until is not None and _order(task) > until):
            break
        if (
            draws >= CHUNK_DRAWS
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
