"""The index finds whom a look at everybody would find, whatever agents came and how often they changed."""

from __future__ import annotations

from random import Random

import pytest

from meshd.domain.agent_index import AgentIndex
from meshd.domain.discovery import AgentFilter
from meshd.domain.invariants import violations
from meshd.domain.limits import SEARCHED_AT_ONCE
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, LabelCondition, LabelOperator
from tests.unit.domain.world import World

SKILLS = ("fly", "read", "swim", "write")
ZONES = ("north", "south", "")
NAMES = ("", "", "Writer", "writer two", "ẞharp", "a-1", "ẞ")
PREFIXES = ("a", "a-1", "a-10", "W", "writer t", "ß", "ss", "z", "\U0010ffff")


def random_spec(rng: Random, agent_id: str) -> AgentSpec:
    labels = {"zone": rng.choice(ZONES), "load": str(rng.randrange(9)), "rack": f"r{rng.randrange(40)}"}
    return AgentSpec(
        agent_id,
        rng.choice(list(AgentType)),
        name=rng.choice(NAMES),
        capabilities=frozenset(rng.sample(SKILLS, rng.randrange(3))),
        labels={label: value for label, value in labels.items() if rng.random() < 0.7},
    )


def random_condition(rng: Random) -> LabelCondition:
    operator = rng.choice(list(LabelOperator))
    label = rng.choice(("zone", "load", "rack", "nowhere"))
    if operator in (LabelOperator.EXISTS, LabelOperator.NOT_EXISTS):
        return LabelCondition(label, operator, ())
    values = rng.sample(("north", "", "3", "5", "r1", "r7", "r40"), rng.randrange(1, 4))
    return LabelCondition(label, operator, tuple(values))


def random_filter(rng: Random) -> AgentFilter:
    return AgentFilter(
        type=rng.choice((None, None, AgentType.WORKER)),
        capabilities=frozenset(rng.sample(SKILLS, rng.choice((0, 0, 1, 2)))),
        any_capabilities=frozenset(rng.sample((*SKILLS, "sing"), rng.choice((0, 0, 1, 3)))),
        labels=tuple(random_condition(rng) for _ in range(rng.choice((0, 0, 1, 2)))),
        health=frozenset(rng.sample(list(Health), rng.choice((0, 0, 3)))),
        text_prefix=rng.choice(("", "", *PREFIXES)).casefold(),
    )


def found(index: AgentIndex, wanted: AgentFilter, after: str = "") -> list[str]:
    return [agent.spec.agent_id for part in index.matching(wanted, after) for agent in part]


@pytest.mark.parametrize("agents", [30, 3 * SEARCHED_AT_ONCE])
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_whom_a_look_at_everybody_finds(seed: int, agents: int) -> None:
    rng = Random(seed)
    ns = World().ns
    for number in rng.sample(range(agents), agents):
        spec = random_spec(rng, f"a-{number}")
        ns.add_agent(Agent(ns.name, spec, 0, rng.choice(list(Health)), 0, ""))
    for _ in range(5):
        for agent in rng.sample(list(ns.agents.values()), agents // 3):
            ns.agent_index.replace(agent, random_spec(rng, agent.spec.agent_id))
        assert violations(ns) == []
        in_order = sorted(ns.agents.values(), key=lambda agent: agent.spec.agent_id)
        for _ in range(60):
            wanted, after = random_filter(rng), rng.choice(("", "a-2", "a-3x", "b"))
            expected = [a.spec.agent_id for a in wanted.among(in_order) if a.spec.agent_id > after]
            assert found(ns.agent_index, wanted, after) == expected, wanted


def indexed(count: int) -> AgentIndex:
    index = AgentIndex()
    for number in range(count):
        labels = {"rack": str(number // 20)}
        spec = AgentSpec(f"a-{number:05}", AgentType.WORKER, capabilities=frozenset(("all",)), labels=labels)
        index.add(Agent("default", spec, 0, Health.HEALTHY, 0, ""))
    return index


class Counting(AgentFilter):
    """A filter that counts at whom it looks."""

    looked_at = 0

    def among(self, agents: list[Agent]) -> list[Agent]:
        """Count them."""
        Counting.looked_at += len(agents)
        return super().among(agents)


@pytest.mark.parametrize(
    "wanted",
    [
        Counting(
            labels=(LabelCondition("rack", LabelOperator.IN, ("7",)),), capabilities=frozenset(("all",))
        ),
        Counting(labels=(LabelCondition("rack", LabelOperator.GREATER_THAN, ("48",)),)),
        Counting(labels=(LabelCondition("host", LabelOperator.EXISTS, ()),)),
        Counting(text_prefix="a-0014"),
        Counting(any_capabilities=frozenset(("none",))),
    ],
)
def test_only_those_are_looked_at_who_can_be_meant(wanted: Counting) -> None:
    index = indexed(2 * SEARCHED_AT_ONCE)
    Counting.looked_at = 0
    agents = len(found(index, wanted))
    assert Counting.looked_at == agents <= 20


def test_a_look_is_at_a_few_agents_though_none_of_them_is_meant() -> None:
    index = indexed(2 * SEARCHED_AT_ONCE + 1)
    parts = index.matching(AgentFilter(health=frozenset((Health.LOST,))), "")
    assert [len(part) for part in parts] == [0, 0, 0]


def test_names_that_begin_alike_by_the_hundred_are_no_way_to_look() -> None:
    index = indexed(2 * SEARCHED_AT_ONCE)
    for number in range(SEARCHED_AT_ONCE + 1):
        spec = AgentSpec(f"a-{number:05}", AgentType.WORKER, name=f"Agent {number}")
        index.replace(index.everybody[number], spec)
    wanted = Counting(text_prefix="agent")
    Counting.looked_at = 0
    assert len(found(index, wanted)) == SEARCHED_AT_ONCE + 1
    assert Counting.looked_at == 2 * SEARCHED_AT_ONCE
