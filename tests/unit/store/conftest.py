"""A store that is loaded and closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    opened.load()
    yield opened
    opened.close()
