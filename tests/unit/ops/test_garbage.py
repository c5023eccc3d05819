"""Garbage collection in a process of its own: the settings are the process's."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, gc, weakref
from meshd.ops import garbage

class Node: pass

def cycle():
    node = Node()
    node.itself = node
    return node

garbage.begin()
kept = [[] for _ in range(3 * garbage.YOUNG_OBJECTS)]
young = weakref.ref(cycle())
gc.collect(0)
assert young() is None, "a young cycle is garbage at once"
assert gc.get_freeze_count() > len(kept), "what survives is set aside"
assert len(gc.get_objects()) < len(kept), "and not searched again"

old = cycle()
found = weakref.ref(old)
gc.collect(0)
del old
gc.collect()
assert found() is not None, "a cycle set aside waits"
garbage.collect_all()
assert found() is None, "until everything is searched"
assert gc.get_freeze_count() > len(kept)

async def replacing():
    searching = asyncio.create_task(garbage.search_young_forever())
    ended = asyncio.Event()
    waiting = weakref.ref(cycle(), lambda _: ended.set())
    for number in range(len(kept)):
        kept[number] = []  # as many freed as made
    assert len(gc.get_objects(0)) > len(kept), "more are young than ever count as new"
    await asyncio.wait_for(ended.wait(), 30)
    assert len(gc.get_objects(0)) < garbage.YOUNG_OBJECTS, "they are searched in time"
    searching.cancel()

asyncio.run(replacing())
print("seen")
"""


def test_survivors_are_set_aside_and_cycles_among_them_found_later() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    # On a busy machine a long pause is logged before it.
    assert (done.stdout.splitlines()[-1:], done.stderr) == (["seen"], "")
