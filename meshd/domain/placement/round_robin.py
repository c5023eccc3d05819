"""ROUND_ROBIN: each session with a free slot in turn."""

from __future__ import annotations

from collections.abc import Iterator

from meshd.domain.placement.pools import Pool
from meshd.domain.values import Session


def candidates(pool: Pool) -> Iterator[Session]:
    """Yield sessions with a free slot, the one that waited longest first."""
    yield from pool.available


def chosen(pool: Pool, session: Session) -> None:
    """Send the chosen session to the end of the round."""
    del pool.available[session]
    pool.available[session] = None
