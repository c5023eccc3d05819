"""What the mesh looks like at one moment, for whoever shows it. Plain data; counted when asked, never kept."""

from __future__ import annotations

from typing import NamedTuple

from meshd.domain.values import AgentType, Health, TaskState


class NamespaceGauges(NamedTuple):
    """One namespace."""

    namespace: str
    agents: dict[tuple[AgentType, Health], int]
    open_tasks: dict[TaskState, int]
    oldest_queued_s: float
    """Since the submit of the oldest task that waits for an agent; 0 when none does."""
    unplaceable: int
    """Queued tasks that no agent in reach can take."""
    sessions: dict[Health, int]
    streams: int
    slots: int
    free_slots: int


class MeshGauges(NamedTuple):
    """The whole mesh."""

    namespaces: list[NamespaceGauges]
    uncommitted_bytes: int
    uncommitted_age_s: float
    watchers: int


class StorageGauges(NamedTuple):
    """The disk under the mesh."""

    engine: str
    """With its version, such as "SQLite 3.45.1"."""
    database_bytes: int
    free_bytes: int
    min_free_bytes: int
    low: bool
    """New work is refused for want of space."""
