"""The demo's books, kept twice: what the client saw, and what the mesh recorded. Both must say the same.

A task is lost when it was acknowledged and has no result in the end. An outcome is repeated when two different ones
were seen of one task, or when the mesh accepted a result of more than one of its attempts.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from agentmesh.v1.task_pb2 import AttemptState, Task, TaskState


@dataclass(slots=True)
class Account:
    """Counts of one side."""

    tasks: int
    succeeded: int
    lost: int
    repeated: int


@dataclass(slots=True)
class ClientLog:
    """What this process itself saw: acknowledged submits, and every outcome as it came in."""

    acknowledged: set[str] = field(default_factory=set)
    outcomes: dict[str, set[tuple[int, bytes]]] = field(default_factory=dict)

    def saw(self, task: Task) -> None:
        """Notes the outcome of an ended task; the same one twice is one."""
        self.outcomes.setdefault(task.spec.task_id, set()).add((task.state, task.output.inline))

    def account(self) -> Account:
        succeeded = {
            task_id
            for task_id, seen in self.outcomes.items()
            if all(state == TaskState.TASK_STATE_SUCCEEDED for state, _ in seen)
        }
        return Account(
            tasks=len(self.acknowledged),
            succeeded=len(succeeded),
            lost=len(self.acknowledged - self.outcomes.keys()),
            repeated=sum(len(seen) > 1 for seen in self.outcomes.values()),
        )

    def results(self) -> dict[str, Any]:
        """Results by task id, of the tasks that succeeded and returned one."""
        return {
            task_id: json.loads(output)
            for task_id, seen in sorted(self.outcomes.items())
            for state, output in seen
            if state == TaskState.TASK_STATE_SUCCEEDED and output
        }


def account_of_records(records: list[Task], acknowledged: int) -> Account:
    """Counts the mesh's own records, read after the last outcome."""
    succeeded = [task for task in records if task.state == TaskState.TASK_STATE_SUCCEEDED]
    accepted = AttemptState.ATTEMPT_STATE_SUCCEEDED
    return Account(
        tasks=len(records),
        succeeded=len(succeeded),
        lost=acknowledged - len(succeeded),
        repeated=sum(
            sum(attempt.state == accepted for attempt in (*task.past_attempts, task.attempt)) > 1
            for task in records
        ),
    )


def failover_s(records: list[Task], killed_agent: str, killed_at_s: float) -> float | None:
    """Seconds from the kill until the last task the agent held was assigned elsewhere; None when it held none."""
    reassigned: list[float] = []
    for task in records:
        attempts = [*task.past_attempts, task.attempt]
        for lost, following in itertools.pairwise(attempts):
            if lost.agent_id == killed_agent and lost.state == AttemptState.ATTEMPT_STATE_LOST:
                reassigned.append(following.assign_time.ToDatetime(UTC).timestamp() - killed_at_s)
    return max(reassigned, default=None)
