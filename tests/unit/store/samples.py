"""Things to store."""

from __future__ import annotations

import dataclasses
from typing import Any

from meshd.domain.records import AuditRecord, Writes
from meshd.domain.values import (
    Agent,
    AgentSpec,
    AgentType,
    Health,
    OutcomeReason,
    Requirements,
    Session,
    Task,
    TaskSpec,
    TaskState,
)
from meshd.store.sqlite import SqliteStore

FAR_MS = 1 << 45
"""A wall time that has not come yet."""


def a_task(key: int, **fields: Any) -> Task:
    """Return a queued task called ``t<key>``; ``fields`` are of the task or of its spec."""
    spec = TaskSpec(f"t{key}", "work", b"input", b"d" * 16, Requirements(frozenset(("work",))))
    task = Task(key, "default", spec, 1 << 63, TaskState.QUEUED, 5, "operator:test", len(spec.payload))
    of_spec = {each.name for each in dataclasses.fields(TaskSpec)}
    for name, value in fields.items():
        setattr(spec if name in of_spec else task, name, value)
    return task


def an_ended_task(key: int, end_ms: int) -> Task:
    """Return a task that succeeded at that time."""
    return a_task(key, state=TaskState.SUCCEEDED, outcome=OutcomeReason.COMPLETED, end_ms=end_ms)


def an_agent(agent_id: str, *, session: bool) -> Agent:
    """Return an agent with every field set."""
    spec = AgentSpec(
        agent_id, AgentType.CRITIC, "Name", frozenset(("x", "y")), {"k": "v"}, "h", 1, "d", 3, 4, 5
    )
    agent = Agent("default", spec, 1, Health.HEALTHY, 2, "cause", None, 6, 7, 8, 9, 10)
    if session:
        agent.session = Session("s", agent, b"r" * 32, b"k" * 32, 11, 12)
    return agent


def audit_records(namespace: str, count: int, **fields: Any) -> list[AuditRecord]:
    """Return the first records of a chain; every second one is a denial."""
    return [
        AuditRecord(namespace, n, n, "s", "p", "M", "o", n % 2 == 0, "R", 1, b"d", b"p", b"h%d" % n)._replace(
            **fields
        )
        for n in range(1, count + 1)
    ]


def commit(store: SqliteStore, *new: Task, **more: Any) -> None:
    """Commit new tasks and whatever else ``Writes`` holds."""
    store.commit(store.snapshot(Writes(new_tasks={task.key: task for task in new}, **more)))
