"""Looks at all agents of a namespace leave others their turns."""

from __future__ import annotations

import asyncio

import pytest

from meshd.domain.drains import AgentSelector, Drain, drain_id
from meshd.engine.selection import other_drains, progress_of, until_idle
from tests.unit.domain.world import World

pytestmark = pytest.mark.anyio


def world_with_drains(*patterns: str) -> World:
    world = World()
    world.agent("w1")
    for pattern in patterns:
        selector = AgentSelector(pattern)
        drain = Drain("default", drain_id(selector), selector, "", "operator:test", 1)
        world.ns.drains[drain.drain_id] = drain
    return world


class Turns:
    """Counts the turns that others have."""

    def __init__(self) -> None:
        self.count = 0
        self._next()

    def _next(self) -> None:
        self.count += 1
        self.handle = asyncio.get_running_loop().call_soon(self._next)


async def test_other_drains_are_those_that_concern_some_of_the_agents() -> None:
    world = world_with_drains("w*", "w?", "x*", "w1")
    turns = Turns()
    found = await other_drains(world.ns, AgentSelector("w*"))
    assert found == [drain_id(AgentSelector("w?")), drain_id(AgentSelector("w1"))]
    assert turns.count > 4
    turns.handle.cancel()


async def test_others_have_their_turn_before_each_drain_is_looked_at() -> None:
    world = world_with_drains("w*", "x*")
    turns = Turns()
    assert [(await progress_of(world.ns, each)).agent_count for each in world.ns.drains.values()] == [1, 0]
    assert turns.count > 2
    turns.handle.cancel()


async def test_waiting_ends_when_the_time_is_over_or_nothing_is_held() -> None:
    world = world_with_drains()
    world.submit("t1")
    assert (await until_idle(world.ns, AgentSelector("w*"), 0.0)).held_attempts == 1
    assert (await until_idle(world.ns, AgentSelector("x*"), 60.0)).held_attempts == 0
