"""Counts the mesh for its gauges, on the event loop's thread.

Rule: the cost grows with agents and held attempts, and sets of requirements, not with the backlog: a scrape must not stall the loop.
"""

from __future__ import annotations

import time
from collections import Counter

from meshd.domain.state import Namespace
from meshd.domain.values import AttemptState, TaskState
from meshd.engine.mesh import Mesh
from meshd.ports.gauges import MeshGauges, NamespaceGauges


def measure(mesh: Mesh) -> MeshGauges:
    """Return what the mesh looks like now."""
    wall_ms = time.time_ns() // 1_000_000
    streams = Counter(stream.namespace.name for stream in mesh.streams)
    return MeshGauges(
        [_measure(ns, streams[ns.name], wall_ms) for ns in mesh.namespaces.values()],
        mesh.commits.uncommitted_bytes,
        mesh.commits.uncommitted_age_s,
        mesh.hub.size,
    )


def _measure(ns: Namespace, streams: int, wall_ms: int) -> NamespaceGauges:
    sessions = list(ns.sessions.values())
    queued = sum(pool.queue.size for pool in ns.pools.by_requirements.values())
    held = Counter(
        TaskState.ASSIGNED if task.attempt_state is AttemptState.ASSIGNED else TaskState.RUNNING
        for session in sessions
        for task in session.held.values()
    )
    open_tasks = {
        TaskState.WAITING: max(0, len(ns.tasks) - queued - held.total()),
        TaskState.QUEUED: queued,
        TaskState.ASSIGNED: held[TaskState.ASSIGNED],
        TaskState.RUNNING: held[TaskState.RUNNING],
    }
    return NamespaceGauges(
        namespace=ns.name,
        agents=dict(Counter((agent.spec.type, agent.health) for agent in ns.agents.values())),
        open_tasks=open_tasks,
        oldest_queued_s=_oldest_queued_s(ns, wall_ms) if queued else 0.0,
        unplaceable=sum(pool.queue.size for pool in ns.pools.busy if not pool.served),
        sessions=dict(Counter(session.agent.health for session in sessions)),
        streams=streams,
        slots=sum(session.slots for session in sessions),
        free_slots=sum(session.free_slots for session in sessions),
    )


def _oldest_queued_s(ns: Namespace, wall_ms: int) -> float:
    # Open tasks stand in order of arrival, and only attempts and retries stand before the first queued one.
    oldest = next((task for task in ns.tasks.values() if task.state is TaskState.QUEUED), None)
    return max(0, wall_ms - oldest.submit_ms) / 1_000 if oldest is not None else 0.0
