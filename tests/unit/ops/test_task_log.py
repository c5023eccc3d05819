"""The log of single tasks: nobody even listens unless the level is debug."""

import logging

import pytest

from meshd.ops import task_log


@pytest.mark.parametrize(("level", "listens"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_steps_are_asked_for_at_level_debug_only(level: int, listens: bool) -> None:
    logger = logging.getLogger(task_log.NAME)
    before = logger.level
    logger.setLevel(level)
    try:
        assert (task_log.listener() is not None) == listens
    finally:
        logger.setLevel(before)
