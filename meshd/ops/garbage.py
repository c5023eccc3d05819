"""Garbage collection that never walks over the whole mesh in the middle of its work.

Rule: only objects made lately are searched for garbage, once; what is left is set aside (``gc.freeze``), since a collection
over a million tasks stops the daemon for a third of a second. References still free such objects at once; cycles among them
wait for ``collect_all_forever``, which looks at everything, seldom.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any, Final

import structlog

YOUNG_OBJECTS: Final = 20_000
"""New containers, less those freed, from which on what is young is searched; a search takes up to 20 ms."""
YOUNG_INTERVAL_S: Final = 0.25
"""How often it is searched anyway. What frees as many objects as it makes is never counted as new, and a fleet's beats do:
ten thousand agents had made 200,000 until then, and their search took 0.2 s."""
NEVER: Final = 1_000_000_000
MIN_INTERVAL_S: Final = 600.0
OBJECTS_PER_INTERVAL_S: Final = 100
"""A search of everything takes half a microsecond an object: this makes it a twenty-thousandth of the time."""
LONG_S: Final = 0.05

log = structlog.get_logger()


def hold_off() -> None:
    """Search for nothing until ``begin``: what a start loads is no garbage, and searching a backlog takes long."""
    gc.collect()
    gc.disable()


def begin() -> None:
    """Set aside what lives now, and from now on what survives."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(YOUNG_OBJECTS, NEVER, NEVER)
    gc.callbacks.append(_set_survivors_aside)


def _set_survivors_aside(phase: str, _info: dict[str, Any]) -> None:
    if phase == "stop":
        gc.freeze()


async def search_young_forever() -> None:
    """Search what is young in time, before it is much, until cancelled."""
    while True:
        await asyncio.sleep(YOUNG_INTERVAL_S)
        gc.collect(0)


async def collect_all_forever() -> None:
    """Search everything now and then, the more seldom the longer it takes, until cancelled."""
    while True:
        await asyncio.sleep(max(MIN_INTERVAL_S, gc.get_freeze_count() / OBJECTS_PER_INTERVAL_S))
        collect_all()


def collect_all() -> None:
    """Search everything; stops the process for about a third of a second for each million tasks in memory."""
    start_mono = time.monotonic()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    seconds = time.monotonic() - start_mono
    if seconds > LONG_S:
        log.info("all garbage collected", pause_seconds=round(seconds, 3))
