"""What must hold between two batches. Tests and the simulator call it after every step."""

from __future__ import annotations

from collections import Counter

from meshd.domain import census
from meshd.domain.drains import words_for
from meshd.domain.placement.matching import fits
from meshd.domain.placement.pools import load_bucket
from meshd.domain.state import Namespace
from meshd.domain.values import Session, TaskState

OPEN_STATES = (TaskState.WAITING, TaskState.QUEUED, TaskState.ASSIGNED, TaskState.RUNNING)


def violations(ns: Namespace) -> list[str]:
    """Return every broken invariant in words; empty when all hold."""
    return _queues_and_tasks(ns) + [
        word for session in ns.sessions.values() for word in _session(ns, session)
    ]


def _queues_and_tasks(ns: Namespace) -> list[str]:
    found: list[str] = []
    queued: Counter[int] = Counter()
    for pool in ns.pools.by_requirements.values():
        live = list(pool.queue)
        if pool.queue.size != len(live):
            found.append(f"queue size {pool.queue.size} but {len(live)} queued tasks")
        queued.update(task.key for task in live)
    states = Counter(task.state for task in ns.tasks.values())
    if census.open_tasks(ns) != {state: states[state] for state in OPEN_STATES}:
        found.append(f"the census counts {census.open_tasks(ns)}, the tasks are {dict(states)}")
    for task_id, task in ns.tasks.items():
        name = f"{task_id} is {task.state.name}"
        if task.terminal:
            found.append(f"{name} but counted as open")
        if queued[task.key] != (task.state is TaskState.QUEUED):
            found.append(f"{name} and stands {queued[task.key]} times in queues")
        holders = [s for s in ns.sessions.values() if s.held.get(task.fence) is task]
        if len(holders) != (task.state in (TaskState.ASSIGNED, TaskState.RUNNING)):
            found.append(f"{name} and held by {len(holders)} sessions")
        if holders and holders[0].session_id != task.session_id:
            found.append(f"{task_id} is held by a session other than its own")
    return found


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
    for pool in ns.pools.by_requirements.values():
        inside = any(session in bucket for bucket in pool.buckets)
        if inside != (offered and fits(pool.requirements, session.agent.spec)):
            found.append(f"{name} is in or out of a pool against the rule")
    return found
