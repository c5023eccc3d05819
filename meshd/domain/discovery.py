"""Finding agents and tasks by conditions: what lists return and watches report.

Rule: all conditions of a filter must hold; an empty one holds always. Filters are hashable: watches share by them.
"""

from __future__ import annotations

from typing import NamedTuple

from meshd.domain.placement.matching import label_test
from meshd.domain.placement.pools import FULL
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, LabelCondition, Task, TaskState


class AgentFilter(NamedTuple):
    """Which agents are meant."""

    type: AgentType | None = None
    capabilities: frozenset[str] = frozenset()
    """All of these."""
    any_capabilities: frozenset[str] = frozenset()
    """At least one of these."""
    labels: tuple[LabelCondition, ...] = ()
    health: frozenset[Health] = frozenset()
    min_free_slots: int = 0
    text_prefix: str = ""
    """Of the id or the name, whatever the case; casefolded."""

    def matches(self, agent: Agent) -> bool:
        """Return whether an agent meets every condition now."""
        return bool(self.among([agent]))

    def among(self, agents: list[Agent]) -> list[Agent]:
        """Return those of the agents that meet every condition now, in their order.

        Condition by condition, since a list is looked through for one at a fifth of the cost of asking each agent for all.
        """
        if self.type is not None:
            agents = [a for a in agents if a.spec.type is self.type]
        if self.health:
            agents = [a for a in agents if a.health in self.health]
        if self.capabilities:
            agents = [a for a in agents if self.capabilities <= a.spec.capabilities]
        if self.any_capabilities:
            agents = [a for a in agents if not self.any_capabilities.isdisjoint(a.spec.capabilities)]
        if self.min_free_slots:
            # Free is what work can be given to now: sessions that are offered none, or are full, are told by their bucket.
            least = self.min_free_slots
            agents = [
                a for a in agents if (s := a.session) and 0 <= s.bucket < FULL and s.free_slots >= least
            ]
        for condition in self.labels:
            label, holds = condition.label, label_test(condition)
            agents = [a for a in agents if holds(a.spec.labels.get(label))]
        if self.text_prefix:
            agents = [a for a in agents if _begins(a.spec, self.text_prefix)]
        return agents


class TaskConditions(NamedTuple):
    """Which tasks are meant."""

    states: frozenset[TaskState] = frozenset()
    task_type: str = ""
    agent_id: str = ""
    """Of the last attempt."""

    def matches(self, task: Task) -> bool:
        """Return whether a task meets every condition now."""
        return (
            (not self.states or task.state in self.states)
            and (not self.task_type or task.spec.task_type == self.task_type)
            and (not self.agent_id or task.agent_id == self.agent_id)
        )


def _begins(spec: AgentSpec, prefix: str) -> bool:
    # An id has no capital letters.
    return spec.agent_id.startswith(prefix) or spec.name.casefold().startswith(prefix)


def place_of(agent: Agent) -> str:
    """Return an agent's place in the order of lists."""
    return f"{agent.namespace}/{agent.spec.agent_id}"
