"""Changes of agents and tasks between domain and contract, as encoded parts of messages.

Rule: parts joined are one message: encodings of a message that stand one after another mean their union. So a change
is encoded once, however many watch.
"""

from __future__ import annotations

from typing import Final

from agentmesh.v1 import registry_service_pb2, scheduler_service_pb2, watch_pb2
from meshd.domain.discovery import TaskConditions
from meshd.domain.values import Agent, Task, TaskState
from meshd.engine.feeds import Position, ResetReason
from meshd.wire import validate
from meshd.wire.codec.agents import agent_to
from meshd.wire.codec.tasks import task_to
from meshd.wire.codec.values import enum

WITH_AGENT: Final = frozenset({TaskState.ASSIGNED, TaskState.RUNNING})


class AgentChanges:
    """Encoding of a namespace's agents."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def key(self, agent: Agent) -> str:
        """Return the agent's id."""
        return agent.spec.agent_id

    def over(self, _agent: Agent) -> bool:
        """Return False: agents do not end."""
        return False

    def item(self, agent: Agent, revision: int) -> bytes:
        """Return the part that shows an agent."""
        change = registry_service_pb2.AgentChange(revision=revision, agent=agent_to(agent, self._epoch))
        return registry_service_pb2.WatchAgentsResponse(changes=[change]).SerializeToString()

    def gone(self, agent: Agent, revision: int) -> bytes:
        """Return the part that says that an agent stopped matching."""
        change = registry_service_pb2.AgentChange(revision=revision, gone_agent_id=agent.spec.agent_id)
        return registry_service_pb2.WatchAgentsResponse(changes=[change]).SerializeToString()

    def position(self, revision: int) -> bytes:
        """Return the part that names a position."""
        position = watch_pb2.WatchPosition(epoch=self._epoch, revision=revision)
        return registry_service_pb2.WatchAgentsResponse(position=position).SerializeToString()

    def reset(self, reason: ResetReason) -> bytes:
        """Return the part that begins a snapshot."""
        return registry_service_pb2.WatchAgentsResponse(reset=reason_to(reason)).SerializeToString()


class TaskChanges:
    """Encoding of a namespace's tasks."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def key(self, task: Task) -> int:
        """Return the task's key."""
        return task.key

    def over(self, task: Task) -> bool:
        """Return whether the task has ended."""
        return task.terminal

    def item(self, task: Task, revision: int) -> bytes:
        """Return the part that shows a task, without payload and output."""
        change = scheduler_service_pb2.TaskChange(revision=revision, task=task_to(task))
        return scheduler_service_pb2.WatchTasksResponse(changes=[change]).SerializeToString()

    def gone(self, task: Task, revision: int) -> bytes:
        """Return the part that says that a task stopped matching."""
        change = scheduler_service_pb2.TaskChange(revision=revision, gone_task_id=task.spec.task_id)
        return scheduler_service_pb2.WatchTasksResponse(changes=[change]).SerializeToString()

    def position(self, revision: int) -> bytes:
        """Return the part that names a position."""
        position = watch_pb2.WatchPosition(epoch=self._epoch, revision=revision)
        return scheduler_service_pb2.WatchTasksResponse(position=position).SerializeToString()

    def reset(self, reason: ResetReason) -> bytes:
        """Return the part that begins a snapshot."""
        return scheduler_service_pb2.WatchTasksResponse(reset=reason_to(reason)).SerializeToString()


def reason_to(reason: ResetReason) -> watch_pb2.ResetReason.ValueType:
    """Return the contract's reason, which has the same number."""
    return watch_pb2.ResetReason.ValueType(reason)


def tasks_wanted(request: scheduler_service_pb2.WatchTasksRequest) -> TaskConditions:
    """Check and convert the conditions of a request. Raises Refusal."""
    states = frozenset(enum(TaskState, state, "states") for state in request.states)
    return TaskConditions(
        states=states | WITH_AGENT if states & WITH_AGENT else states,
        task_type=validate.dotted(request.task_type, "task_type") if request.task_type else "",
        agent_id=validate.agent_id(request.agent_id) if request.agent_id else "",
    )


def position_from(
    request: registry_service_pb2.WatchAgentsRequest | scheduler_service_pb2.WatchTasksRequest,
) -> Position | None:
    """Return where a watcher goes on; None: it begins."""
    return Position(request.after.epoch, request.after.revision) if request.HasField("after") else None
