"""Builds the namespaces in memory from what the store kept, and starts the hold.

Rule: acceptance is not durable, so a restored attempt is ASSIGNED until its agent names it as held.
"""

from __future__ import annotations

from meshd.domain.drains import words_for
from meshd.domain.handlers.attempts import fence_of
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.retry import Rng, longest_backoff_ms
from meshd.domain.state import Counter, Namespace, Timer
from meshd.domain.values import (
    AttemptState,
    Health,
    NamespaceInfo,
    Now,
    Task,
    TaskState,
)
from meshd.ports.store import Restored


def build(
    restored: Restored,
    rules: SessionRules,
    fleet: Fleet,
    keys: Counter,
    rng: Rng,
    now: Now,
) -> dict[str, Namespace]:
    """Return the namespaces by name, ready to serve."""
    namespaces = {info.name: new_namespace(info, rules, fleet, keys, rng) for info in restored.namespaces}
    fleet.start_hold(sum(1 for agent in restored.agents if agent.session is not None), now.mono)
    for drain in restored.drains:
        namespaces[drain.namespace].drains[drain.drain_id] = drain
    for agent in restored.agents:
        ns = namespaces[agent.namespace]
        ns.add_agent(agent)
        # A new epoch counts anew.
        ns.agent_revision += 1
        agent.revision = ns.agent_revision
        session = agent.session
        if session is not None:
            ns.sessions[session.session_id] = session
            session.drained = words_for(ns.drains.values(), agent.spec)
            fleet.restored(session)
            agent.health = Health.SUSPECT
            agent.health_ms = now.wall_ms
            agent.health_cause = "meshd restarted; waiting for it to return"
        elif agent.health is not Health.DECLARED:
            agent.health = Health.LOST
    for task in restored.tasks:
        _place(namespaces[task.namespace], task, now)
    return namespaces


def new_namespace(
    info: NamespaceInfo, rules: SessionRules, fleet: Fleet, keys: Counter, rng: Rng
) -> Namespace:
    """Return an empty namespace."""
    return Namespace(info, rules, fleet, keys, rng)


def _place(ns: Namespace, task: Task, now: Now) -> None:
    ns.tasks[task.spec.task_id] = task
    # Acceptance is not durable; what failed or was lost had been taken.
    task.taken = bool(task.failures or task.losses)
    spec = task.spec
    if task.deadline_ms:
        ns.arm(_mono(task.deadline_ms, spec.timeout_ms, now), Timer.DEADLINE, task)
    if task.queue_deadline_ms:
        ns.arm(_mono(task.queue_deadline_ms, spec.queue_timeout_ms, now), Timer.QUEUE_DEADLINE, task)
    if task.state is TaskState.QUEUED:
        ns.enqueue(task)
        return
    if task.state is TaskState.WAITING:
        longest_ms = longest_backoff_ms(spec.retry, task.failures)
        ns.arm(_mono(task.next_attempt_ms, longest_ms, now), Timer.RETRY, task, task.attempt)
        return
    task.state = TaskState.ASSIGNED
    task.accept_ms = 0
    task.fence = fence_of(task)
    if task.attempt_state is AttemptState.STOPPING:
        grace_start = max(now.mono, ns.fleet.hold_until_mono)
        ns.arm(grace_start + task.cancel_grace_ms / 1000, Timer.GRACE, task, task.attempt)
    else:
        task.attempt_state = AttemptState.ASSIGNED
    # A task and the end of its session share one commit, so an assigned task always has its session.
    ns.sessions[task.session_id].held[task.fence] = task


def _mono(wall_ms: int, longest_ms: float, now: Now) -> float:
    """Return when a wall time is due; a clock that was set back makes nobody wait longer than ever intended."""
    return now.mono + min(wall_ms - now.wall_ms, longest_ms) / 1000
