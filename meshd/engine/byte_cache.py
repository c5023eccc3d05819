"""A bounded cache of payloads: fresh inputs and results stay in memory until newer ones push them out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

ITEM_BYTES: Final = 200
"""What an item takes besides its bytes; so there are never so many that the table stops the daemon for long when it grows."""


class ByteCache:
    """Least recently added bytes go first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        # An OrderedDict: a plain dict walks over the holes that its removed first items leave.
        self._items: OrderedDict[int, bytes] = OrderedDict()

    def put(self, key: int, value: bytes) -> None:
        """Add bytes."""
        self.drop(key)
        self._items[key] = value
        self._bytes += len(value) + ITEM_BYTES
        while self._bytes > self._limit_bytes:
            _, dropped = self._items.popitem(last=False)
            self._bytes -= len(dropped) + ITEM_BYTES

    def get(self, key: int) -> bytes | None:
        """Return the bytes, or None when they are not here any more."""
        return self._items.get(key)

    def drop(self, key: int) -> None:
        """Forget bytes that nobody needs any more."""
        value = self._items.pop(key, None)
        if value is not None:
            self._bytes -= len(value) + ITEM_BYTES
