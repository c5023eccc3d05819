"""LEAST_LOADED: the session with the smallest share of its slots in use, to a sixteenth; equals take turns."""

from __future__ import annotations

from collections.abc import Iterator

from meshd.domain.placement.pools import FULL, Pool
from meshd.domain.values import Session


def candidates(pool: Pool) -> Iterator[Session]:
    """Yield sessions with a free slot, best first."""
    for bucket in pool.buckets[:FULL]:
        yield from bucket


def chosen(pool: Pool, session: Session) -> None:
    """Let equals take turns: the chosen session goes behind those of its bucket."""
    bucket = pool.buckets[session.bucket]
    del bucket[session]
    bucket[session] = None
