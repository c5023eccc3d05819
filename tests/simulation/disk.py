"""The model disk: what is durable, as rows made and read by the store's own code.

Rule: a commit lands as a whole or not at all, and what has landed is there after any crash. It refuses what a real
schema would refuse: a second task of the same id, a second result, a second row of one attempt.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from meshd.domain.commands import KnownTask
from meshd.domain.drains import Drain
from meshd.domain.records import Writes
from meshd.domain.values import EndedAttempt, NamespaceInfo, Task
from meshd.ports.store import Restored
from meshd.store import rows
from tests.simulation.violation import Violation


class Batch(NamedTuple):
    """One commit's rows."""

    new: list[tuple[Any, ...]]
    changed: list[tuple[Any, ...]]
    outputs: list[tuple[int, bytes]]
    attempts: list[EndedAttempt]
    agents: list[tuple[Any, ...]]
    drains: list[tuple[Any, ...]]


def snapshot(writes: Writes) -> Batch:
    """Copy what one commit makes durable."""
    return Batch(
        [rows.task_to_row(task) for task in writes.new_tasks.values()],
        [rows.task_changes(task) for task in writes.changed_tasks.values()],
        list(writes.outputs),
        list(writes.attempts),
        [rows.agent_to_row(agent) for agent in writes.agents.values()],
        [rows.drain_to_row(drain) for drain in writes.drains.values()],
    )


class Disk:
    """Durable state."""

    def __init__(self, namespaces: list[str]) -> None:
        self.tasks: dict[int, tuple[Any, ...]] = {}
        self._read: dict[int, Task] = {}
        """The same as read back from the rows; for readers only, who change nothing and keep none."""
        self.keys: dict[tuple[str, str], int] = {}
        self.fences: dict[bytes, int] = {}
        """First 8 bytes of a fence -> key."""
        self.outputs: dict[int, bytes] = {}
        self.attempts: dict[int, dict[int, EndedAttempt]] = {}
        self.agents: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.drains: dict[tuple[str, str], Drain] = {}
        """Those in force."""
        self.namespaces = [NamespaceInfo(name, "", 0, 0) for name in namespaces]

    def write(self, batch: Batch) -> list[Task]:
        """Make a batch durable; return the tasks it touched, as a reader would see them."""
        touched: list[Task] = []
        for row in batch.new:
            task = rows.task_from_row(row)
            name = (task.namespace, task.spec.task_id)
            if name in self.keys or row[0] in self.tasks:
                raise Violation(f"a second task {name} is written: the unique index refuses it")
            self.keys[name] = task.key
            self.fences[task.incarnation.to_bytes(8, "big")] = task.key
            self.tasks[task.key] = row
            self._read[task.key] = task
            touched.append(task)
        touched += [self._change(change) for change in batch.changed]
        for attempt in batch.attempts:
            of_task = self.attempts.setdefault(attempt.task_key, {})
            if attempt.number in of_task:
                raise Violation(f"attempt {attempt.number} of task key {attempt.task_key} ends twice")
            of_task[attempt.number] = rows.attempt_from_row(rows.attempt_to_row(attempt))
        for key, output in batch.outputs:
            if key in self.outputs:
                raise Violation(f"a second result of task key {key} is written")
            self.outputs[key] = output
        for row in batch.agents:
            self.agents[row[0], row[1]] = row
        for row in batch.drains:
            drain = rows.drain_from_row(row)
            self.drains.pop((drain.namespace, drain.drain_id), None)
            if not drain.lift_ms:
                self.drains[drain.namespace, drain.drain_id] = drain
        return touched

    def _change(self, change: tuple[Any, ...]) -> Task:
        old = self.tasks.get(change[0])
        if old is None:
            raise Violation(f"a change of task key {change[0]} is written, which is not there")
        if change[:2] == old[:2] and change[3:] == old[3 : len(change)]:
            raise Violation(f"a change of task key {change[0]} is written, but only its generation changes")
        self.tasks[change[0]] = (*change, *old[len(change) :])
        task = self._read[change[0]]
        rows.change_task(task, change)
        return task

    def restore(self) -> Restored:
        """Raise the epochs and return what a start needs."""
        self.namespaces = [info._replace(epoch=info.epoch + 1) for info in self.namespaces]
        open_keys = sorted(key for key, task in self._read.items() if not task.terminal)
        return Restored(
            namespaces=list(self.namespaces),
            agents=[rows.agent_from_row(row) for row in self.agents.values()],
            tasks=[rows.task_from_row(self.tasks[key]) for key in open_keys],
            next_key=max(self.tasks, default=0) + 1,
            join_tokens=[],
            identities=[],
            revocations=[],
            signing_keys=[],
            audit_heads={},
            drains=list(self.drains.values()),
        )

    def task(self, key: int) -> Task:
        """Read a task. Raises KeyError."""
        return self._read[key]

    def by_fence(self, fence: bytes) -> tuple[Task, int] | None:
        """Return the durable task of a fence and the fence's attempt number."""
        key = self.fences.get(fence[:8])
        return None if key is None else (self.task(key), int.from_bytes(fence[8:12], "big"))

    def known(self, namespace: str, task_ids: list[str]) -> dict[str, KnownTask]:
        """Return those of the ids that are durable."""
        found = {i: self.keys[namespace, i] for i in task_ids if (namespace, i) in self.keys}
        return {i: KnownTask(key, self.task(key).spec.digest) for i, key in found.items()}
