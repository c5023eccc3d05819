"""The filter of ids: never denies an id it was given, and seldom claims one it was not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshd.engine.id_filter import SMALLEST, IdFilter

HASHES = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(st.lists(HASHES, max_size=200))
def test_holds_everything_added(hashes: list[int]) -> None:
    ids = IdFilter()
    for each in hashes:
        ids.add(each)
    assert all(ids.holds(each) for each in hashes)
    assert all(ids.add(each) for each in hashes)


def test_grows_and_still_knows_new_from_old() -> None:
    ids = IdFilter()
    before_bytes = ids.size_bytes
    count = 3 * SMALLEST
    for number in range(count):
        ids.add(hash(("default", f"old-{number}")))
    assert ids.size_bytes > before_bytes
    assert all(ids.holds(hash(("default", f"old-{number}"))) for number in range(count))
    assert all(ids.add(hash(("default", f"old-{number}"))) for number in range(0, count, 100))
    taken_for_old = sum(ids.holds(hash(("default", f"new-{number}"))) for number in range(10_000))
    assert taken_for_old < 200


def test_the_same_id_in_another_namespace_is_another_id() -> None:
    ids = IdFilter()
    ids.add(hash(("one", "task")))
    assert not ids.holds(hash(("two", "task")))
