"""Pools: the sessions that may take the tasks of one requirement set, ordered by load.

Invariant: a session is in a pool exactly when its agent fits the pool's requirements and ``Pools.add`` was called more
recently than ``Pools.remove``; it stands in the load bucket of its held and quarantined attempts, and in ``available``
exactly when it has a free slot. A pick costs O(1); a change of load moves the session only when its bucket changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, TypeVar

from meshd.domain.limits import MAX_IDLE_POOLS
from meshd.domain.placement.matching import label_test, score
from meshd.domain.queue import TaskQueue
from meshd.domain.values import AgentSpec, Requirements, Session, Task

Each = TypeVar("Each")

FULL: Final = 16
"""Bucket of sessions without a free slot; the buckets below it are sixteenths of the load."""


def load_bucket(session: Session) -> int:
    """Return the bucket for the session's load."""
    used = len(session.held) + len(session.quarantine)
    return FULL if used >= session.slots else FULL * used // session.slots


class Pool:
    """The queue of one requirement set and the sessions that can serve it."""

    __slots__ = ("_label_tests", "_scores", "available", "buckets", "queue", "requirements")

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
        self.queue = TaskQueue()
        self.buckets: list[dict[Session, None]] = [{} for _ in range(FULL + 1)]
        self.available: dict[Session, None] = {}
        self._label_tests = [(c.label, label_test(c)) for c in requirements.labels]
        self._scores: dict[Session, int] = {}
        """Found once for each session: all tasks of the pool have the same preferences."""

    def fits(self, agent: AgentSpec) -> bool:
        """Return whether an agent meets everything that is required."""
        labels = agent.labels
        return self.requirements.capabilities <= agent.capabilities and all(
            holds(labels.get(label)) for label, holds in self._label_tests
        )

    def score(self, session: Session) -> int:
        """Return how many preferences a session of the pool meets."""
        found = self._scores.get(session)
        if found is None:
            found = self._scores[session] = score(self.requirements, session.agent.spec)
        return found

    def enter(self, session: Session) -> None:
        """Add a session at its present bucket."""
        self.buckets[session.bucket][session] = None
        if session.bucket != FULL:
            self.available[session] = None

    def leave(self, session: Session) -> None:
        """Remove a session from its present bucket."""
        del self.buckets[session.bucket][session]
        self.available.pop(session, None)
        self._scores.pop(session, None)

    def move(self, session: Session, bucket: int) -> None:
        """Move a session from its present bucket to another."""
        del self.buckets[session.bucket][session]
        self.buckets[bucket][session] = None
        if bucket == FULL:
            del self.available[session]
        elif session.bucket == FULL:
            self.available[session] = None

    @property
    def served(self) -> bool:
        """True while some session can take these tasks, now or once it has a free slot."""
        return any(self.buckets)

    def is_deep(self) -> bool:
        """Return whether at least as many tasks are queued as there are free slots."""
        left = self.queue.size
        for session in self.available:
            left -= session.free_slots
            if left < 0:
                return False
        return True


class Pools:
    """All pools of a namespace, and which sessions are in which.

    Invariant: ``busy`` has the pools with queued tasks, ``idle`` the others, at most MAX_IDLE_POOLS. ``ready`` has at least those with a
    queued task and a free slot. A caller can queue tasks for as many requirement sets as it likes that nobody meets, so neither a
    round, nor a new pool, nor an agent that comes or goes may cost a look at all of them.
    """

    def __init__(self) -> None:
        self.by_requirements: dict[Requirements, Pool] = {}
        self.busy: dict[Pool, None] = {}
        self.idle: OrderedDict[Pool, None] = OrderedDict()
        """The one that has been idle for longest comes first."""
        self.ready: dict[Pool, None] = {}
        """Dispatch takes out what turns out not to be."""
        self._of: dict[Session, dict[Pool, None]] = {}
        self._able: dict[str, dict[Session, None]] = {}
        """The sessions in ``_of`` whose agents have a capability, in the same order."""
        self._asking: dict[str, dict[Pool, None]] = {}
        """Pools by one of the capabilities they require, "" for those that require none."""

    def pool(self, requirements: Requirements) -> Pool:
        """Return the pool of a requirement set, made when it is new."""
        pool = self.by_requirements.get(requirements)
        if pool is None:
            pool = self.by_requirements[requirements] = Pool(requirements)
            self._rest(pool)
            self._asking.setdefault(_mark(requirements), {})[pool] = None
            for session in self._perhaps_able(requirements):
                if pool.fits(session.agent.spec):
                    pool.enter(session)
                    self._of[session][pool] = None
        return pool

    def push(self, task: Task) -> None:
        """Queue a task that has just become QUEUED."""
        pool = self.pool(task.spec.requirements)
        pool.queue.push(task)
        if pool.queue.size == 1:
            del self.idle[pool]
            self.busy[pool] = None
        if pool.available:
            self.ready[pool] = None

    def removed(self, task: Task) -> None:
        """Note that a QUEUED task is about to become something else without being drawn."""
        pool = self.by_requirements[task.spec.requirements]
        pool.queue.removed(task)
        self.drawn(pool)

    def drawn(self, pool: Pool) -> None:
        """Note that the queue of a busy pool has become shorter: maybe it is idle now."""
        if pool.queue.size:
            return
        del self.busy[pool]
        self.ready.pop(pool, None)
        self._rest(pool)

    def add(self, session: Session) -> bool:
        """Let a session take work; return False when it is in already, or has no slots."""
        if session.bucket >= 0 or session.slots <= 0:
            return False
        session.bucket = load_bucket(session)
        spec = session.agent.spec
        pools = self._of[session] = {}
        for capability in spec.capabilities:
            self._able.setdefault(capability, {})[session] = None
        for mark in ("", *spec.capabilities):
            for pool in self._asking.get(mark, ()):
                if pool.fits(spec):
                    pools[pool] = None
                    pool.enter(session)
                    if pool.queue.size:
                        self.ready[pool] = None
        return True

    def remove(self, session: Session) -> None:
        """Let a session take no more work."""
        if session.bucket < 0:
            return
        for pool in self._of.pop(session):
            pool.leave(session)
        # Its agent has the capabilities that it had when it was added: a spec changes only between sessions.
        for capability in session.agent.spec.capabilities:
            _take_out(self._able, capability, session)
        session.bucket = -1

    def update(self, session: Session) -> None:
        """Note that a session's load changed."""
        if session.bucket < 0:
            return
        bucket = load_bucket(session)
        if bucket != session.bucket:
            freed = session.bucket == FULL
            for pool in self._of[session]:
                pool.move(session, bucket)
                if freed and pool.queue.size:
                    self.ready[pool] = None
            session.bucket = bucket

    def _perhaps_able(self, requirements: Requirements) -> Iterable[Session]:
        """Return the sessions whose agents have that required capability which the fewest have."""
        able = (self._able.get(each, {}) for each in requirements.capabilities)
        return min(able, key=len, default=self._of.keys())

    def _rest(self, pool: Pool) -> None:
        """Let a pool be idle; forget the one that has been for longest when there are too many."""
        self.idle[pool] = None
        if len(self.idle) <= MAX_IDLE_POOLS:
            return
        oldest, _ = self.idle.popitem(last=False)
        del self.by_requirements[oldest.requirements]
        _take_out(self._asking, _mark(oldest.requirements), oldest)
        for bucket in oldest.buckets:
            for session in bucket:
                del self._of[session][oldest]


def _mark(requirements: Requirements) -> str:
    return min(requirements.capabilities, default="")


def _take_out(lists: dict[str, dict[Each, None]], name: str, each: Each) -> None:
    """Take somebody out of a list, and the list with the last of it."""
    of_name = lists[name]
    del of_name[each]
    if not of_name:
        del lists[name]
