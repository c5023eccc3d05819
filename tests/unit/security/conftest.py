"""A fresh world for each test."""

import pytest

from tests.auth_world import World, new_world


@pytest.fixture
def world(tmp_path) -> World:
    return new_world(tmp_path)
