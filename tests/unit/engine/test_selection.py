"""Lists of agents: in one order over all namespaces, page by page. Looks at a whole fleet leave others their turns."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from meshd.domain.discovery import AgentFilter, place_of
from meshd.domain.drains import AgentSelector, Drain, drain_id
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, NamespaceInfo
from meshd.engine import selection
from meshd.engine.selection import first_agents, other_drains, progress_of, until_idle
from tests.unit.domain.world import World

pytestmark = pytest.mark.anyio

NAMES = ("a", "a-b", "ab", "b")
"""In the order of places "a-b/x" comes before "a/x"."""
LOST = AgentFilter(health=frozenset((Health.LOST,)))


def fleets(agents: int) -> list[Namespace]:
    """Namespaces whose agents came in any order; every third is lost."""
    rules = SessionRules()
    made = []
    for name in NAMES:
        ns = Namespace(NamespaceInfo(name, "", 0, 1), rules, Fleet(rules), Counter(1), Random(1))
        for number in Random(name).sample(range(agents), agents):
            health = Health.LOST if number % 3 == 0 else Health.HEALTHY
            ns.add_agent(Agent(name, AgentSpec(f"x-{number}", AgentType.WORKER), 0, health, 0, ""))
        made.append(ns)
    return made


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


async def test_pages_follow_the_order_of_places_and_miss_nobody() -> None:
    namespaces = fleets(700)
    places = sorted(
        place_of(agent) for ns in namespaces for agent in ns.agents.values() if LOST.matches(agent)
    )
    for size in (1_000, 7):
        found: list[str] = []
        while page := await first_agents(namespaces, LOST, found[-1] if found else "", size):
            assert len(page) <= size
            assert len(found) < len(places), "an agent is on two pages"
            found += map(place_of, page)
        assert found == places


async def test_a_list_leaves_others_their_turn_and_shows_nobody_who_changed_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "LOOK_S", 0.0)
    namespaces = fleets(700)
    first = namespaces[1].agents["x-0"]

    def recover() -> None:
        first.health = Health.HEALTHY

    asyncio.get_running_loop().call_soon(recover)
    found = await first_agents(namespaces, LOST, "", 1_000)
    assert first.health is Health.HEALTHY
    assert found
    assert first not in found
    assert all(map(LOST.matches, found))
