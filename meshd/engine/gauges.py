"""Counts the mesh for its gauges, on the event loop's thread; what is counted how stands in ``domain/census``."""

from __future__ import annotations

import time
from collections import Counter

from meshd.domain import census
from meshd.domain.state import Namespace
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
    oldest_ms = census.oldest_queued_ms(ns)
    return NamespaceGauges(
        namespace=ns.name,
        agents=dict(Counter((agent.spec.type, agent.health) for agent in ns.agents.values())),
        open_tasks=census.open_tasks(ns),
        oldest_queued_s=0.0 if oldest_ms is None else max(0, wall_ms - oldest_ms) / 1_000,
        unplaceable=sum(pool.queue.size for pool in census.without_takers(ns)),
        sessions=dict(Counter(session.agent.health for session in sessions)),
        streams=streams,
        slots=sum(session.slots for session in sessions),
        free_slots=sum(session.free_slots for session in sessions),
    )
