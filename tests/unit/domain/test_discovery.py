"""Lists of agents: in one order over all namespaces, page by page, and quick among thousands."""

from __future__ import annotations

from random import Random

from meshd.domain.discovery import AgentFilter, first_agents, place_of
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, NamespaceInfo

NAMES = ("a", "a-b", "ab", "b")
"""In the order of places "a-b/x" comes before "a/x"."""


def namespaces(agents: int) -> list[Namespace]:
    """Namespaces whose agents came in any order; every third is lost."""
    rules = SessionRules()
    made = []
    for name in NAMES:
        ns = Namespace(NamespaceInfo(name, "", 0, 1), rules, Fleet(rules), Counter(1), Random(1))
        numbers = list(range(agents))
        Random(name).shuffle(numbers)
        for number in numbers:
            spec = AgentSpec(f"x-{number}", AgentType.WORKER)
            health = Health.LOST if number % 3 == 0 else Health.HEALTHY
            ns.add_agent(Agent(name, spec, 0, health, 0, ""))
        made.append(ns)
    return made


def test_pages_follow_the_order_of_places_and_miss_nobody() -> None:
    all_namespaces = namespaces(700)
    wanted = AgentFilter(health=frozenset((Health.LOST,)))
    places = sorted(
        place_of(agent) for ns in all_namespaces for agent in ns.agents.values() if wanted.matches(agent)
    )
    for size in (1_000, 7):
        found: list[str] = []
        while page := first_agents(all_namespaces, wanted, found[-1] if found else "", size):
            assert len(page) <= size
            assert len(found) < len(places), "an agent is on two pages"
            found += map(place_of, page)
        assert found == places
