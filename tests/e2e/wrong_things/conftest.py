"""One mesh for all mistakes that leave it running, and one of its own for each that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.wrong_things.house import House


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("wrong"))
    house.meshd.start()
    house.keep_a_task()
    yield house
    house.close()


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """The shared mesh; after the test it serves and has lost nothing."""
    yield shared_house
    shared_house.must_have_lost_nothing()


@pytest.fixture
def own_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Make a mesh for this test alone, with a task that was acknowledged."""
    with ExitStack() as stack:

        def make(**how: object) -> House:
            house = House(tmp_path, **how)  # type: ignore[arg-type]
            stack.callback(house.close)
            house.meshd.start()
            house.keep_a_task()
            return house

        yield make
