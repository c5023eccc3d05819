"""A filter of ids: tells for certain that an id was never added, and rarely takes a new one for an old one.

A Bloom filter (Bloom, 1970) of four probes and 16 bits for each id it has room for: about one new id in 400 is taken
for an old one. Nothing is ever removed. One thread adds; ids are given by a 64-bit hash, such as ``hash()`` of a tuple.
"""

from __future__ import annotations

from typing import Final

BITS_PER_ID: Final = 16
PROBES: Final = 4
SMALLEST: Final = 1 << 16
"""Ids in the first block."""


class IdFilter:
    """Blocks of bits, each with room for twice as many ids as the one before."""

    def __init__(self, expected: int = 0) -> None:
        self._room = max(SMALLEST, 1 << max(expected - 1, 0).bit_length())
        self._blocks = [bytearray(self._room * BITS_PER_ID // 8)]
        self._left = self._room

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return sum(map(len, self._blocks))

    def holds(self, id_hash: int) -> bool:
        """Return False when the id was certainly never added."""
        return any(_holds(block, id_hash) for block in self._blocks)

    def add(self, id_hash: int) -> bool:
        """Add an id; return False when it was certainly never added before."""
        blocks = self._blocks
        known = any(_holds(block, id_hash) for block in blocks[:-1])
        bits = blocks[-1]
        mask = 8 * len(bits) - 1
        step = id_hash >> 32 | 1
        fresh = False
        for _ in range(PROBES):
            place = id_hash & mask
            bit = 1 << (place & 7)
            if not bits[place >> 3] & bit:
                bits[place >> 3] |= bit
                fresh = True
            id_hash += step
        if fresh:
            self._left -= 1
            if self._left == 0:
                self._room *= 2
                self._left = self._room
                blocks.append(bytearray(self._room * BITS_PER_ID // 8))
        return known or not fresh


def _holds(bits: bytearray, id_hash: int) -> bool:
    mask = 8 * len(bits) - 1
    step = id_hash >> 32 | 1
    for _ in range(PROBES):
        place = id_hash & mask
        if not bits[place >> 3] & (1 << (place & 7)):
            return False
        id_hash += step
    return True
