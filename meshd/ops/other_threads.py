"""The threads beside the event loop's: while the loop is busy, they do not interrupt it.

gRPC's threads have something to do for every event, and the kernel would run them at once, in the middle of a turn of the
loop: where the loop has one core, that is fifteen switches a call. As batch threads they wait until the loop does, or for
their share of the time, and then do more at once. Not while the loop has time: a batch thread also waits for the programs
of others, milliseconds where those fill the core, and an answer is several threads away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

INTERVAL_S: Final = 0.1
BUSY_SHARE: Final = 0.5
"""A loop that uses more of its time than this is busy; the rest may already be what the others take."""
CALM_SHARE: Final = 0.3
"""It is busy until it uses less than this."""


class OtherThreads:
    """Decides for all threads but the loop's, on which it is made and used."""

    def __init__(self) -> None:
        self.standing_back = False

    async def look_forever(self) -> None:
        """Look how busy the loop is, until cancelled. Does nothing where an operator chose another way to run meshd."""
        if not _ordinary():
            return
        looked_mono, used_s = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(INTERVAL_S)
            now_mono, now_used_s = time.monotonic(), time.thread_time()
            self.look((now_used_s - used_s) / (now_mono - looked_mono))
            looked_mono, used_s = now_mono, now_used_s

    def look(self, busy_share: float) -> None:
        """Have the others stand back or not, given the share of its time that the loop used."""
        before = self.standing_back
        self.standing_back = busy_share > (CALM_SHARE if before else BUSY_SHARE)
        if self.standing_back:
            _schedule_others(os.SCHED_BATCH)  # Every time: there may be new ones.
        elif before:
            _schedule_others(os.SCHED_OTHER)


def _ordinary() -> bool:
    with contextlib.suppress(OSError):
        return sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
    return False


def _schedule_others(policy: int) -> None:
    # A thread may have ended, and a sandbox may not allow this: it is no promise, only faster.
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            if thread.name != str(threading.get_native_id()):
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))
