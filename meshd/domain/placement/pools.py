"""Pools: the sessions that may take the tasks of one requirement set, ordered by load.

Invariant: a session is in a pool exactly when its agent fits the pool's requirements and ``Pools.add`` was called more
recently than ``Pools.remove``; it stands in the load bucket of its held and quarantined attempts, and in ``available``
exactly when it has a free slot. A pick costs O(1); a change of load moves the session only when its bucket changes.
"""

from __future__ import annotations

from typing import Final

from meshd.domain.limits import MAX_POOLS
from meshd.domain.placement.matching import fits
from meshd.domain.queue import TaskQueue
from meshd.domain.values import Requirements, Session

FULL: Final = 16
"""Bucket of sessions without a free slot; the buckets below it are sixteenths of the load."""


def load_bucket(session: Session) -> int:
    """Return the bucket for the session's load."""
    used = len(session.held) + len(session.quarantine)
    return FULL if used >= session.slots else FULL * used // session.slots


class Pool:
    """The queue of one requirement set and the sessions that can serve it."""

    __slots__ = ("available", "buckets", "queue", "requirements")

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
        self.queue = TaskQueue()
        self.buckets: list[dict[Session, None]] = [{} for _ in range(FULL + 1)]
        self.available: dict[Session, None] = {}

    def enter(self, session: Session) -> None:
        """Add a session at its present bucket."""
        self.buckets[session.bucket][session] = None
        if session.bucket != FULL:
            self.available[session] = None

    def leave(self, session: Session) -> None:
        """Remove a session from its present bucket."""
        del self.buckets[session.bucket][session]
        self.available.pop(session, None)

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
    """All pools of a namespace, and which sessions are in which."""

    def __init__(self) -> None:
        self.by_requirements: dict[Requirements, Pool] = {}
        self.busy: dict[Pool, None] = {}
        """Pools that may have queued tasks."""
        self._of: dict[Session, list[Pool]] = {}

    def pool(self, requirements: Requirements) -> Pool:
        """Return the pool of a requirement set, made when it is new."""
        pool = self.by_requirements.get(requirements)
        if pool is None:
            if len(self.by_requirements) >= MAX_POOLS:
                self._forget_idle()
            pool = self.by_requirements[requirements] = Pool(requirements)
            for session, pools in self._of.items():
                if fits(requirements, session.agent.spec):
                    pool.enter(session)
                    pools.append(pool)
        return pool

    def add(self, session: Session) -> bool:
        """Let a session take work; return False when it is in already, or has no slots."""
        if session.bucket >= 0 or session.slots <= 0:
            return False
        session.bucket = load_bucket(session)
        pools = [p for p in self.by_requirements.values() if fits(p.requirements, session.agent.spec)]
        self._of[session] = pools
        for pool in pools:
            pool.enter(session)
        return True

    def remove(self, session: Session) -> None:
        """Let a session take no more work."""
        if session.bucket < 0:
            return
        for pool in self._of.pop(session):
            pool.leave(session)
        session.bucket = -1

    def update(self, session: Session) -> None:
        """Note that a session's load changed."""
        if session.bucket < 0:
            return
        bucket = load_bucket(session)
        if bucket != session.bucket:
            for pool in self._of[session]:
                pool.move(session, bucket)
            session.bucket = bucket

    def _forget_idle(self) -> None:
        idle = [p for p in self.by_requirements.values() if p.queue.size == 0]
        for pool in idle:
            del self.by_requirements[pool.requirements]
            self.busy.pop(pool, None)
        gone = set(idle)
        for session, pools in self._of.items():
            self._of[session] = [p for p in pools if p not in gone]
