"""Where the agents that a filter means can be, so that a list need not look at a whole fleet.

Invariant (checked by ``invariants``): every list has exactly the agents whose present specs belong there, by id; ``named`` has those
with a name, by name and id. A spec is replaced through ``replace`` only.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import islice

from meshd.domain.discovery import AgentFilter
from meshd.domain.limits import SEARCHED_AT_ONCE
from meshd.domain.placement.matching import label_test
from meshd.domain.values import Agent, AgentSpec, LabelOperator

MERGE_COST = 4
"""To merge lists costs an agent so many times what a look at it costs."""


class AgentIndex:
    """The agents of one namespace in order, and those of them with a capability, a label's value, a name."""

    def __init__(self) -> None:
        self.everybody: list[Agent] = []
        self.by_capability: dict[str, list[Agent]] = {}
        self.by_label: dict[str, dict[str, list[Agent]]] = {}
        self.named: list[Agent] = []

    def add(self, agent: Agent) -> None:
        """Take in an agent that is not known yet."""
        insort(self.everybody, agent, key=_agent_id)
        self._enter(agent)

    def replace(self, agent: Agent, spec: AgentSpec) -> None:
        """Give an agent another spec with the same id."""
        old = agent.spec
        if (old.capabilities, old.labels, old.name) == (spec.capabilities, spec.labels, spec.name):
            agent.spec = spec
            return
        self._leave(agent)
        agent.spec = spec
        self._enter(agent)

    def matching(self, wanted: AgentFilter, after: str) -> Iterator[list[Agent]]:
        """Yield the agents that meet the conditions and whose ids come after one, in order of id, a few at a time.

        Each part is what a look at up to SEARCHED_AT_ONCE agents found, maybe none. The fleet may change between two.
        """
        lists = self._candidates(wanted)
        while searched := _first(lists, after):
            yield wanted.among(searched)
            after = searched[-1].spec.agent_id

    def _candidates(self, wanted: AgentFilter) -> list[list[Agent]]:
        """Return lists in order of id that together have everybody who can meet the conditions: the shortest there are."""
        ways = [[self.everybody]]
        ways += ([self.by_capability.get(each, [])] for each in wanted.capabilities)
        if wanted.any_capabilities:
            ways.append([self.by_capability.get(each, []) for each in wanted.any_capabilities])
        for condition in wanted.labels:
            by_value, holds = self.by_label.get(condition.label, {}), label_test(condition)
            if condition.operator is LabelOperator.IN:
                ways.append([by_value.get(value, []) for value in condition.values])
            elif not holds(None) and len(by_value) <= SEARCHED_AT_ONCE:
                ways.append([agents for value, agents in by_value.items() if holds(value)])
        if wanted.text_prefix:
            named = _beginning(self.named, wanted.text_prefix, _name)
            # To put more of them in order of id would take longer than to look at everybody.
            if len(named) <= SEARCHED_AT_ONCE:
                ids = _beginning(self.everybody, wanted.text_prefix, _agent_id)
                ways.append([ids, sorted(named, key=_agent_id)])
        return min(ways, key=_cost)

    def _enter(self, agent: Agent) -> None:
        spec = agent.spec
        for capability in spec.capabilities:
            insort(self.by_capability.setdefault(capability, []), agent, key=_agent_id)
        for label, value in spec.labels.items():
            insort(self.by_label.setdefault(label, {}).setdefault(value, []), agent, key=_agent_id)
        if spec.name:
            insort(self.named, agent, key=_name_and_id)

    def _leave(self, agent: Agent) -> None:
        spec = agent.spec
        for capability in spec.capabilities:
            _drop(self.by_capability, capability, agent)
        for label, value in spec.labels.items():
            by_value = self.by_label[label]
            _drop(by_value, value, agent)
            if not by_value:
                del self.by_label[label]
        if spec.name:
            del self.named[bisect_left(self.named, _name_and_id(agent), key=_name_and_id)]


def _cost(lists: list[list[Agent]]) -> int:
    return sum(map(len, lists)) * (1 if len(lists) == 1 else MERGE_COST)


def _drop(lists: dict[str, list[Agent]], key: str, agent: Agent) -> None:
    agents = lists[key]
    del agents[bisect_left(agents, agent.spec.agent_id, key=_agent_id)]
    if not agents:
        del lists[key]


def _first(lists: list[list[Agent]], after: str) -> list[Agent]:
    """Return the next agents in some lists after an id, each once."""
    parts: list[list[Agent]] = []
    for agents in lists:
        start = bisect_right(agents, after, key=_agent_id)
        parts.append(agents[start : start + SEARCHED_AT_ONCE])
    if len(parts) == 1:
        return parts[0]
    return list(dict.fromkeys(islice(heapq.merge(*parts, key=_agent_id), SEARCHED_AT_ONCE)))


def _beginning(agents: list[Agent], prefix: str, text: Callable[[Agent], str]) -> list[Agent]:
    """Return those of the agents, in order of a text, whose text begins with a prefix."""

    def beginning(agent: Agent) -> str:
        return text(agent)[: len(prefix)]

    return agents[bisect_left(agents, prefix, key=beginning) : bisect_right(agents, prefix, key=beginning)]


def _agent_id(agent: Agent) -> str:
    return agent.spec.agent_id


def _name(agent: Agent) -> str:
    return agent.spec.name.casefold()


def _name_and_id(agent: Agent) -> tuple[str, str]:
    return _name(agent), agent.spec.agent_id
