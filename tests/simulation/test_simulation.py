"""A few hundred seeds in every run of the tests; `make sim SEEDS=10000` runs as many as one likes."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import failure_of, shrink
from tests.simulation.plan import make

SEEDS = 300
PARTS = 10


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part: int) -> None:
    found = {seed: failure_of(make(seed)) for seed in range(part + 1, SEEDS + 1, PARTS)}
    assert not {seed: words for seed, words in found.items() if words is not None}


def test_a_seed_is_the_same_world_every_time() -> None:
    first: list[str] = []
    second: list[str] = []
    assert failure_of(make(7), first) == failure_of(make(7), second)
    assert first == second
    assert len(first) > 100


def test_a_broken_barrier_is_seen_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshd.domain.commit_barrier.CommitBarrier.pending", property(lambda self: False))
    plan = make(3)
    words = failure_of(plan)
    assert words is not None
    assert len(shrink(plan, words).events) <= 2
