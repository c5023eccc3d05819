"""The cache of payloads is bounded in memory, whatever their size."""

from __future__ import annotations

from meshd.engine.byte_cache import ITEM_BYTES, ByteCache

ROOM = 10 * (ITEM_BYTES + 100)


def test_the_oldest_go_when_there_is_no_room() -> None:
    cache = ByteCache(ROOM)
    for key in range(11):
        cache.put(key, bytes(100))
    assert cache.get(0) is None
    assert all(cache.get(key) == bytes(100) for key in range(1, 11))


def test_empty_ones_take_room_too() -> None:
    cache = ByteCache(ROOM)
    for key in range(1_000):
        cache.put(key, b"")
    assert sum(cache.get(key) is not None for key in range(1_000)) == ROOM // ITEM_BYTES


def test_what_is_dropped_or_put_again_leaves_its_room() -> None:
    cache = ByteCache(ROOM)
    for key in range(1_000):
        cache.put(key % 5, bytes(100))
        cache.put(1_000 + key, bytes(100))
        cache.drop(1_000 + key)
    assert all(cache.get(key) is not None for key in range(5))
