"""Why a task is where it is, agent by agent. Reads state and changes nothing."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from meshd.domain.placement.choice import declines
from meshd.domain.placement.matching import failed_condition, missing_capability
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Health, Task, TaskState


class Verdict(IntEnum):
    """Whether one agent could take a task, best first; numbers are the contract's."""

    FITS = 1
    NO_FREE_SLOT = 2
    NOT_RUNNING = 3
    NOT_PROVEN = 4
    DRAINING = 5
    DECLINED = 6
    TAKES_NO_WORK = 7
    CAPABILITY_MISSING = 8
    LABEL_MISMATCH = 9


class AgentVerdict(NamedTuple):
    """Verdict about one agent."""

    agent: Agent
    verdict: Verdict
    detail: str


class Explanation(NamedTuple):
    """Why a task is where it is."""

    summary: str
    queue_position: int
    verdicts: list[AgentVerdict]


NOT_PROVEN = (Health.SUSPECT, Health.DEAF)


def best_verdicts(task: Task, agents: Iterable[Agent], now_mono: float, count: int) -> list[AgentVerdict]:
    """Return the verdicts on some agents, best first, and of equals in order of id; at most so many."""
    verdicts = (_judge(task, agent, now_mono) for agent in agents)
    return heapq.nsmallest(count, verdicts, key=lambda v: (v.verdict, v.agent.spec.agent_id))


def explanation(ns: Namespace, task: Task, verdicts: list[AgentVerdict], before: int) -> Explanation:
    """Return a sentence for people from the best verdicts, and from how many tasks go before it while it is queued."""
    position = before if task.state is TaskState.QUEUED else 0
    return Explanation(_summary(ns, task, verdicts, position), position, verdicts)


def _judge(task: Task, agent: Agent, now_mono: float) -> AgentVerdict:
    required = task.spec.requirements
    session = agent.session
    missing = missing_capability(required, agent.spec)
    if missing:
        return AgentVerdict(agent, Verdict.CAPABILITY_MISSING, f"lacks the capability {missing}")
    condition = failed_condition(required, agent.spec)
    if condition is not None:
        return AgentVerdict(
            agent,
            Verdict.LABEL_MISMATCH,
            f"does not meet the condition on label {condition.label}",
        )
    if session is None:
        return AgentVerdict(agent, Verdict.NOT_RUNNING, f"can, but is not running: {agent.health_cause}")
    if agent.health in NOT_PROVEN:
        return AgentVerdict(agent, Verdict.NOT_PROVEN, f"can, but is in doubt: {agent.health_cause}")
    if agent.health is Health.DRAINING:
        return AgentVerdict(agent, Verdict.DRAINING, f"can, but takes nothing new: {agent.health_cause}")
    if not session.takes_work or session.slots == 0:
        return AgentVerdict(
            agent,
            Verdict.TAKES_NO_WORK,
            "has the skill, but no stream or slots for work",
        )
    if declines(task, session, now_mono):
        return AgentVerdict(agent, Verdict.DECLINED, "can, but declined this task a moment ago")
    if session.free_slots == 0:
        detail = f"can, but {f'all {session.slots} slots are' if session.slots > 1 else 'its slot is'} in use"
        if session.quarantine:
            detail += f", {len(session.quarantine)} by handlers that go on though their attempts are over"
        return AgentVerdict(agent, Verdict.NO_FREE_SLOT, detail)
    return AgentVerdict(agent, Verdict.FITS, f"can, with {_count(session.free_slots, 'free slot')}")


def _summary(ns: Namespace, task: Task, verdicts: list[AgentVerdict], position: int) -> str:
    if task.terminal:
        return f"it ended {task.state.name} ({task.outcome.name})"
    if task.state is TaskState.WAITING:
        return f"attempt {task.attempt} failed; the next one is due after a pause"
    if task.state in (TaskState.ASSIGNED, TaskState.RUNNING):
        return f"attempt {task.attempt} is with {task.agent_id}"
    if not verdicts:
        return f"namespace {ns.name} has no agents"
    best = verdicts[0]
    who = f"{best.agent.spec.agent_id} in {ns.name}"
    if best.verdict is Verdict.FITS:
        return f"{who} {best.detail}; {_count(position, 'task')} before it"
    if best.verdict >= Verdict.CAPABILITY_MISSING:
        wanted = ", ".join(sorted(task.spec.requirements.capabilities)) or "its labels"
        return f"no agent in {ns.name} meets its requirements ({wanted})"
    return f"{who} {best.detail}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
