"""The threads beside the loop's stand back while it is busy, and only then."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from meshd.ops.other_threads import BUSY_SHARE, CALM_SHARE, OtherThreads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has batch threads")

BETWEEN = (BUSY_SHARE + CALM_SHARE) / 2


@pytest.fixture
def other() -> Iterator[int]:
    """The id of a thread that does nothing."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    over.set()
    thread.join()


def test_a_busy_loop_is_not_interrupted(other: int) -> None:
    threads = OtherThreads()
    threads.look(BETWEEN)
    assert os.sched_getscheduler(other) == os.SCHED_OTHER
    threads.look(0.9)
    assert os.sched_getscheduler(other) == os.SCHED_BATCH
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
    threads.look(BETWEEN)
    assert os.sched_getscheduler(other) == os.SCHED_BATCH
    threads.look(0.1)
    assert os.sched_getscheduler(other) == os.SCHED_OTHER


def test_a_sandbox_that_forbids_it_changes_nothing_else(monkeypatch: pytest.MonkeyPatch, other: int) -> None:
    def forbidden(*_arguments: object) -> None:
        raise PermissionError

    threads = OtherThreads()
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    threads.look(0.9)
    assert os.sched_getscheduler(other) == os.SCHED_OTHER
    monkeypatch.setattr(os, "sched_getscheduler", forbidden)
    asyncio.run(asyncio.wait_for(threads.look_forever(), 5))  # It ends.


def test_a_thread_that_comes_later_stands_back_too() -> None:
    threads = OtherThreads()
    threads.look(0.9)
    over = threading.Event()
    late = threading.Thread(target=over.wait)
    late.start()
    assert late.native_id is not None
    threads.look(0.9)
    policy = os.sched_getscheduler(late.native_id)
    threads.look(0.0)
    over.set()
    late.join()
    assert policy == os.SCHED_BATCH
