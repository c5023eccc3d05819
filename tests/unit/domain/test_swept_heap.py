"""A heap that is swept by and by: nothing is lost, the order stays, and what is over goes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from meshd.domain import swept_heap
from meshd.domain.limits import FEW_ENTRIES, KEPT_AT_ONCE, SWEPT_AT_ONCE
from meshd.domain.swept_heap import SweptHeap


class Model:
    """A heap of numbers, and those that are over."""

    def __init__(self) -> None:
        self.over: set[int] = set()
        self.looked_at = 0
        self.heap: SweptHeap[tuple[int]] = SweptHeap(self._is_over)

    def _is_over(self, entry: tuple[int]) -> bool:
        self.looked_at += 1
        return entry[0] in self.over

    def end(self, number: int) -> None:
        """One of the numbers is over."""
        self.over.add(number)
        self.heap.sweep()

    def drained(self) -> Iterator[int]:
        """Take all, in order, but for what is over."""
        while self.heap.first() is not None:
            (number,) = self.heap.pop()
            if number not in self.over:
                yield number


@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_over_comes_out_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swept_heap, "FEW_ENTRIES", 3)
    rng = Random(seed)
    model = Model()
    open_numbers: set[int] = set()
    for number in rng.sample(range(10_000), 400):
        model.heap.push((number,))
        open_numbers.add(number)
        for _ in range(rng.randrange(3)):
            if open_numbers:
                ended = rng.choice(sorted(open_numbers))
                open_numbers.discard(ended)
                model.end(ended)
        first = model.heap.first()
        if rng.random() < 0.2 and first is not None:
            assert first == min(model.heap)
            assert model.heap.pop() == first
            open_numbers.discard(first[0])
            model.over.add(first[0])
        assert open_numbers <= {number for (number,) in model.heap}
    assert list(model.drained()) == sorted(open_numbers)
    assert model.heap.first() is None


def test_what_ends_before_its_time_does_not_pile_up() -> None:
    model = Model()
    for number in range(20 * FEW_ENTRIES):
        model.heap.push((number,))
        model.end(number)
        assert len(model.heap) <= FEW_ENTRIES + 1


@pytest.mark.parametrize("backwards", [False, True])
def test_of_many_that_end_without_new_ones_few_stay(backwards: bool) -> None:
    model = Model()
    count = 50 * FEW_ENTRIES
    numbers = list(range(count))
    for number in numbers:
        model.heap.push((number,))
    for ended, number in enumerate(reversed(numbers) if backwards else numbers, 1):
        model.end(number)
        assert len(model.heap) <= 2 * (count - ended) + FEW_ENTRIES


def test_one_end_pays_for_a_few_steps_only() -> None:
    model = Model()
    for number in range(10 * FEW_ENTRIES):
        model.heap.push((number,))
    model.end(0)
    assert model.looked_at == KEPT_AT_ONCE
    model.over.update(range(10 * FEW_ENTRIES))
    model.looked_at = 0
    model.end(1)
    assert model.looked_at == SWEPT_AT_ONCE
    assert len(model.heap) == 10 * FEW_ENTRIES - SWEPT_AT_ONCE
