"""What a selector of agents finds, and waiting until those hold nothing."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from meshd.domain.drains import AgentSelector
from meshd.domain.state import Namespace
from meshd.domain.values import Agent

LOOK_INTERVAL_S = 0.1
"""A look costs as much as the namespace has agents; people wait for the answer, not agents."""


class BusyAgent(NamedTuple):
    """An agent that holds attempts."""

    agent: Agent
    task_ids: list[str]
    """The one held longest first."""


class Selection(NamedTuple):
    """The agents that a selector means, as they are now."""

    agent_count: int
    held_attempts: int
    busy: list[BusyAgent]
    """Ordered by id."""


def select(ns: Namespace, selector: AgentSelector) -> Selection:
    """Return the agents that a selector means and what they hold."""
    chosen = [agent for agent in ns.agents.values() if selector.matches(agent.spec)]
    busy = [
        BusyAgent(agent, [task.spec.task_id for task in agent.session.held.values()])
        for agent in chosen
        if agent.session is not None and agent.session.held
    ]
    busy.sort(key=lambda each: each.agent.spec.agent_id)
    return Selection(len(chosen), sum(len(each.task_ids) for each in busy), busy)


async def until_idle(ns: Namespace, selector: AgentSelector, timeout_s: float) -> Selection:
    """Return the agents once they hold nothing, or as they are when the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    # Attempts end in too many places for an event that only few ever wait for.
    while (found := select(ns, selector)).held_attempts and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_INTERVAL_S)
    return found
