"""What must hold between two batches. Tests and the simulator call it after every step."""

from __future__ import annotations

from typing import Final

from meshd.domain import census
from meshd.domain.agent_index import AgentIndex
from meshd.domain.drains import words_for
from meshd.domain.placement.matching import fits
from meshd.domain.placement.pools import Pool, load_bucket
from meshd.domain.state import Namespace
from meshd.domain.values import Session, Task, TaskState

OPEN_STATES: Final = (TaskState.WAITING, TaskState.QUEUED, TaskState.ASSIGNED, TaskState.RUNNING)


def violations(ns: Namespace) -> list[str]:
    """Return every broken invariant in words; empty when all hold."""
    found = _queues_and_tasks(ns) + _agent_index(ns)
    for session in ns.sessions.values():
        found += _session(ns, session)
    for pool in ns.pools.by_requirements.values():
        found += _pool(ns, pool)
    if len(ns.pools.busy) + len(ns.pools.idle) != len(ns.pools.by_requirements):
        found.append("a pool is neither busy nor idle, or both")
    return found


def _queues_and_tasks(ns: Namespace) -> list[str]:
    found: list[str] = []
    queued = _queued(ns, found)
    states = dict.fromkeys(OPEN_STATES, 0)
    for task in ns.tasks.values():
        states[task.state] = states.get(task.state, 0) + 1
    if census.open_tasks(ns) != {state: states[state] for state in OPEN_STATES}:
        found.append(f"the census counts {census.open_tasks(ns)}, the tasks are {dict(states)}")
    holders: dict[Task, list[Session]] = {}
    for session in ns.sessions.values():
        for fence, task in session.held.items():
            if fence == task.fence:
                holders.setdefault(task, []).append(session)
    for task_id, task in ns.tasks.items():
        if task.terminal:
            found.append(f"{task_id} is {task.state.name} but counted as open")
        times = queued.get(task.key, 0)
        if times != (task.state is TaskState.QUEUED):
            found.append(f"{task_id} is {task.state.name} and stands {times} times in queues")
        held_by = holders.get(task, [])
        if len(held_by) != (task.state in (TaskState.ASSIGNED, TaskState.RUNNING)):
            found.append(f"{task_id} is {task.state.name} and held by {len(held_by)} sessions")
        if held_by and held_by[0].session_id != task.session_id:
            found.append(f"{task_id} is held by a session other than its own")
    return found


def _queued(ns: Namespace, found: list[str]) -> dict[int, int]:
    """Return how often each task stands in queues, by key."""
    times: dict[int, int] = {}
    for pool in ns.pools.by_requirements.values():
        live = 0
        for task in pool.queue:
            live += 1
            times[task.key] = times.get(task.key, 0) + 1
        if pool.queue.size != live:
            found.append(f"queue size {pool.queue.size} but {live} queued tasks")
    return times


def _agent_index(ns: Namespace) -> list[str]:
    anew = AgentIndex()
    for agent in ns.agents.values():
        anew.add(agent)
    kept = ns.agent_index
    parts = {
        "everybody": (kept.everybody, anew.everybody),
        "by_capability": (kept.by_capability, anew.by_capability),
        "by_label": (kept.by_label, anew.by_label),
        "named": (kept.named, anew.named),
    }
    return [f"the index of agents is wrong {name}" for name, (one, other) in parts.items() if one != other]


def _session(ns: Namespace, session: Session) -> list[str]:
    found: list[str] = []
    name = session.agent.spec.agent_id
    for fence, task in session.held.items():
        if ns.tasks.get(task.spec.task_id) is not task or task.fence != fence:
            found.append(f"{name} holds a fence that is not its task's")
    if session.agent.session is not session:
        found.append(f"{name} has a session that is not the agent's")
    offered = session.bucket >= 0
    if offered and (session.stream is None or session.deaf or not session.takes_work or session.drained):
        found.append(f"{name} is offered work it cannot take")
    if session.drained != words_for(ns.drains.values(), session.agent.spec):
        found.append(f"{name} is drained or not against the drains in force")
    if offered and session.bucket != load_bucket(session):
        found.append(f"{name} stands in the wrong load bucket")
    return found


def _pool(ns: Namespace, pool: Pool) -> list[str]:
    found: list[str] = []
    fitting = 0
    for session in ns.sessions.values():
        if session.bucket >= 0 and fits(pool.requirements, session.agent.spec):
            fitting += 1
            if session not in pool.buckets[session.bucket]:
                found.append(f"{session.agent.spec.agent_id} is not in a pool where it belongs")
    inside = sum(len(bucket) for bucket in pool.buckets)
    if inside != fitting:
        found.append(f"a pool has {inside} sessions, and {fitting} belong there")
    if (pool in ns.pools.busy) != bool(pool.queue.size):
        found.append(f"a pool with {pool.queue.size} queued tasks counts as busy or idle wrongly")
    if pool.queue.size and pool.available and pool not in ns.pools.ready:
        found.append("a pool has a queued task and a free slot, and dispatch does not look at it")
    return found
