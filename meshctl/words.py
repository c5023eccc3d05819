"""Words for the contract's enums, in both directions: HEALTH_HEALTHY is "healthy" to people."""

from __future__ import annotations

from typing import Any

from agentmesh.v1 import agent_pb2, scheduler_service_pb2, task_pb2

TERMINAL_STATES = frozenset(
    (
        task_pb2.TASK_STATE_SUCCEEDED,
        task_pb2.TASK_STATE_FAILED,
        task_pb2.TASK_STATE_CANCELLED,
        task_pb2.TASK_STATE_EXPIRED,
    )
)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def type_word(value: agent_pb2.AgentType.ValueType) -> str:
    """Returns an agent's type as a word; a type newer than this client as its number."""
    return _name(agent_pb2.AgentType, value, "AGENT_TYPE_")


def type_value(word: str | None) -> agent_pb2.AgentType.ValueType:
    """Returns the agent type a word names; unspecified without one."""
    return (
        agent_pb2.AgentType.Value(f"AGENT_TYPE_{word.upper()}") if word else agent_pb2.AGENT_TYPE_UNSPECIFIED
    )


def health_word(value: agent_pb2.Health.ValueType) -> str:
    """Returns an agent's health as a word."""
    return _name(agent_pb2.Health, value, "HEALTH_")


def health_value(word: str) -> agent_pb2.Health.ValueType:
    """Returns the health a word names."""
    return agent_pb2.Health.Value(f"HEALTH_{word.upper()}")


def state_word(value: task_pb2.TaskState.ValueType) -> str:
    """Returns a task's state as a word."""
    return _name(task_pb2.TaskState, value, "TASK_STATE_")


def state_value(word: str) -> task_pb2.TaskState.ValueType:
    """Returns the task state a word names."""
    return task_pb2.TaskState.Value(f"TASK_STATE_{word.upper()}")


def attempt_word(value: task_pb2.AttemptState.ValueType) -> str:
    """Returns an attempt's state as a word."""
    return _name(task_pb2.AttemptState, value, "ATTEMPT_STATE_")


def outcome_word(value: task_pb2.OutcomeReason.ValueType) -> str:
    """Returns why a task ended in words; empty before its end."""
    return _name(task_pb2.OutcomeReason, value, "OUTCOME_REASON_") if value else ""


def strategy_value(word: str | None) -> task_pb2.PlacementStrategy.ValueType:
    """Returns the placement strategy a word such as round-robin names; unspecified without one."""
    if not word:
        return task_pb2.PLACEMENT_STRATEGY_UNSPECIFIED
    return task_pb2.PlacementStrategy.Value(f"PLACEMENT_STRATEGY_{word.upper().replace('-', '_')}")


def verdict_word(value: scheduler_service_pb2.Verdict.ValueType) -> str:
    """Returns the verdict about an agent in words."""
    return _name(scheduler_service_pb2.Verdict, value, "VERDICT_")


def _name(enum: Any, value: int, prefix: str) -> str:
    """Readers tolerate values they do not know: a newer meshd may send them."""
    descriptor = enum.DESCRIPTOR.values_by_number.get(value)
    return _word(descriptor.name, prefix) if descriptor else str(value)
