"""A filter of ids: tells for certain that an id was never added, and rarely takes a new one for an old one.

A Bloom filter (Bloom, 1970) of three probes and 16 bits for each id it has room for: about one new id in 200 is taken
for an old one. Nothing is ever removed. One thread adds; ids are given by a 64-bit hash, such as ``hash()`` of a tuple.
"""

from __future__ import annotations

from typing import Final

BITS_PER_ID: Final = 16
PROBES: Final = 3
SMALLEST: Final = 1 << 16
"""Ids in the first block."""


class IdFilter:
    """Blocks of bits, each with room for twice as many ids as the one before."""

    def __init__(self) -> None:
        self._room = SMALLEST
        self._blocks = [bytearray(self._room * BITS_PER_ID // 8)]
        self._left = self._room

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return sum(map(len, self._blocks))

    def holds(self, id_hash: int) -> bool:
        """Return False when the id was certainly never added."""
        for block in self._blocks:  # noqa: SIM110  # a generator costs as much as the search itself
            if _holds(block, id_hash):
                return True
        return False

    def add(self, id_hash: int) -> bool:
        """Add an id; return False when it was certainly never added before."""
        known = len(self._blocks) > 1 and self.holds(id_hash)
        bits = self._blocks[-1]
        mask = 8 * len(bits) - 1
        step = id_hash >> 32 | 1
        fresh = False
        for _ in range(PROBES):
            index = (id_hash & mask) >> 3
            bit = 1 << (id_hash & 7)
            if not bits[index] & bit:
                bits[index] |= bit
                fresh = True
            id_hash += step
        if not fresh:
            return True
        self._left -= 1
        if self._left == 0:
            self._room *= 2
            self._left = self._room
            self._blocks.append(bytearray(self._room * BITS_PER_ID // 8))
        return known


def _holds(bits: bytearray, id_hash: int) -> bool:
    mask = 8 * len(bits) - 1
    step = id_hash >> 32 | 1
    for _ in range(PROBES):
        if not bits[(id_hash & mask) >> 3] & (1 << (id_hash & 7)):
            return False
        id_hash += step
    return True
