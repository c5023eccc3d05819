"""Finding agents and tasks by conditions: what lists return and watches report.

Rule: all conditions of a filter must hold; an empty one holds always. Filters are hashable: watches share by them.
"""

from __future__ import annotations

from typing import NamedTuple

from meshd.domain.placement.matching import label_holds
from meshd.domain.values import Agent, AgentType, Health, LabelCondition, Task, TaskState


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
        spec = agent.spec
        return (
            (self.type is None or spec.type is self.type)
            and (not self.health or agent.health in self.health)
            and self.capabilities <= spec.capabilities
            and (not self.any_capabilities or not self.any_capabilities.isdisjoint(spec.capabilities))
            and (not self.min_free_slots or offered_slots(agent) >= self.min_free_slots)
            and (not self.text_prefix or self._begins(spec.agent_id, spec.name))
            and all(label_holds(condition, spec.labels) for condition in self.labels)
        )

    def _begins(self, *texts: str) -> bool:
        return any(text.casefold().startswith(self.text_prefix) for text in texts)


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


def offered_slots(agent: Agent) -> int:
    """Return the slots that can take work now: none unless the agent's session is offered work."""
    session = agent.session
    return session.free_slots if session is not None and session.bucket >= 0 else 0
