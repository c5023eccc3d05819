"""What filters and selectors of agents find, and waiting until those hold nothing.

Rule: one look at all agents of a namespace takes tens of milliseconds when they are ten thousand; between two of them
others have their turn, and in a list's after every few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple, TypeVar

from meshd.domain.discovery import AgentFilter
from meshd.domain.drains import AgentSelector, Drain
from meshd.domain.state import Namespace
from meshd.domain.values import Agent

LOOK_INTERVAL_S = 0.1
"""People wait for the answer, not agents."""


LOOK_S = 0.002
"""How long something that grows with the fleet is looked at before others have their turn."""

T = TypeVar("T")


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


async def in_turns(parts: Iterable[T]) -> AsyncIterator[T]:
    """Yield what is made part by part; others have their turn whenever the parts have taken long enough."""
    begin_mono = time.monotonic()
    for part in parts:
        yield part
        if time.monotonic() - begin_mono > LOOK_S:
            await asyncio.sleep(0)
            begin_mono = time.monotonic()


async def first_agents(
    namespaces: Iterable[Namespace], wanted: AgentFilter, after: str, count: int
) -> list[Agent]:
    """Return up to so many agents that meet the conditions now and come after a place, in order of place."""
    found: list[Agent] = []
    begin_mono = time.monotonic()
    for ns in sorted(namespaces, key=lambda ns: f"{ns.name}/"):
        prefix = f"{ns.name}/"
        if after > prefix and not after.startswith(prefix):
            continue
        for part in ns.agent_index.matching(wanted, after.removeprefix(prefix) if after > prefix else ""):
            found += part
            if len(found) >= count:
                return found[:count]
            if time.monotonic() - begin_mono > LOOK_S:
                await asyncio.sleep(0)
                # Some may have changed meanwhile.
                found = wanted.among(found)
                begin_mono = time.monotonic()
    return found


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


async def progress_of(ns: Namespace, drain: Drain) -> Selection:
    """Return how far a drain is; others have their turn before."""
    await asyncio.sleep(0)
    return select(ns, drain.selector)


async def other_drains(ns: Namespace, selector: AgentSelector) -> list[str]:
    """Return the ids of the drains in force, other than the selector's own, that concern some of its agents."""
    concerned = [agent.spec for agent in ns.agents.values() if selector.matches(agent.spec)]
    found = []
    for drain in list(ns.drains.values()):
        if drain.selector != selector and any(map(drain.selector.matches, concerned)):
            found.append(drain.drain_id)
        await asyncio.sleep(0)
    return found


async def until_idle(ns: Namespace, selector: AgentSelector, timeout_s: float) -> Selection:
    """Return the agents once they hold nothing, or as they are when the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    # Attempts end in too many places for an event that only few ever wait for.
    while _busy(ns, selector) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_INTERVAL_S)
    return select(ns, selector)


def _busy(ns: Namespace, selector: AgentSelector) -> bool:
    """Return whether some selected agent holds something: the first one found is enough."""
    return any(session.held and selector.matches(session.agent.spec) for session in ns.sessions.values())
