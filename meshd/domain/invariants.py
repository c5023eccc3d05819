"""What must hold between two batches. Tests and the simulator call it after every step."""

from __future__ import annotations

from meshd.domain.placement.matching import fits
from meshd.domain.placement.pools import load_bucket
from meshd.domain.state import Namespace
from meshd.domain.values import TaskState


def violations(ns: Namespace) -> list[str]:
    """Return every broken invariant in words; empty when all hold."""
    found: list[str] = []
    queued: dict[int, int] = {}
    for pool in ns.pools.by_requirements.values():
        live = list(pool.queue)
        if pool.queue.size != len(live):
            found.append(f"queue size {pool.queue.size} but {len(live)} queued tasks")
        for task in live:
            queued[task.key] = queued.get(task.key, 0) + 1
    for task_id, task in ns.tasks.items():
        if task.terminal:
            found.append(f"{task_id} is {task.state.name} but counted as open")
        if queued.get(task.key, 0) != (task.state is TaskState.QUEUED):
            found.append(
                f"{task_id} is {task.state.name} and stands {queued.get(task.key, 0)} times in queues"
            )
        holders = [s for s in ns.sessions.values() if s.held.get(task.fence) is task]
        expected = 1 if task.state in (TaskState.ASSIGNED, TaskState.RUNNING) else 0
        if len(holders) != expected:
            found.append(
                f"{task_id} is {task.state.name} and held by {len(holders)} sessions"
            )
        if holders and holders[0].session_id != task.session_id:
            found.append(f"{task_id} is held by a session other than its own")
    for session in ns.sessions.values():
        name = session.agent.spec.agent_id
        for fence, task in session.held.items():
            if ns.tasks.get(task.spec.task_id) is not task or task.fence != fence:
                found.append(f"{name} holds a fence that is not its task's")
        if session.agent.session is not session:
            found.append(f"{name} has a session that is not the agent's")
        if session.bucket >= 0:
            if session.stream is None or session.deaf or not session.takes_work:
                found.append(f"{name} is offered work it cannot take")
            if session.bucket != load_bucket(session):
                found.append(f"{name} stands in the wrong load bucket")
        for pool in ns.pools.by_requirements.values():
            inside = any(session in bucket for bucket in pool.buckets)
            if inside != (
                session.bucket >= 0 and fits(pool.requirements, session.agent.spec)
            ):
                found.append(f"{name} is in or out of a pool against the rule")
    return found
