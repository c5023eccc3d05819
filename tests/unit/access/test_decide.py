"""The order of the decision: authentic, namespace, rules for oneself, the table."""

from typing import Any

import pytest

from meshd.domain.access import (
    ANONYMOUS,
    LOCAL_OPERATOR,
    AccessRule,
    Action,
    Principal,
    Scope,
    decide,
    may_read_part,
)
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType

ORCHESTRATOR = Principal("agent", "agent:blue/boss", "blue", "boss", AgentType.ORCHESTRATOR, expire_ms=1)
MONITOR = Principal("agent", "agent:blue/eye", "blue", "eye", AgentType.MONITOR, expire_ms=1)
NARROW_OPERATOR = Principal("operator", "operator:eve", scope=("read:tasks",), expire_ms=1)

SELF = AccessRule(Action.WRITE, "agents", Scope.SELF)
READ_TASKS = AccessRule(Action.READ, "tasks", Scope.NAMESPACE)
WRITE_TASKS = AccessRule(Action.WRITE, "tasks", Scope.NAMESPACE)
MESH = AccessRule(Action.ADMIN, "namespaces", Scope.MESH)
OPEN = AccessRule(Action.WRITE, "agents", Scope.SELF, unauthenticated=True)


def refused(principal: Principal, rule: AccessRule, namespace: str) -> Reason | None:
    try:
        decide(principal, rule, namespace)
    except Refusal as refusal:
        return refusal.reason
    return None


@pytest.mark.parametrize(
    ("principal", "rule", "namespace", "reason"),
    [
        (ANONYMOUS, READ_TASKS, "blue", Reason.TOKEN_MISSING),
        (ANONYMOUS, SELF, "", Reason.TOKEN_MISSING),
        (ANONYMOUS, OPEN, "blue", None),
        (MONITOR, SELF, "", None),
        (MONITOR, SELF, "blue", None),
        (MONITOR, SELF, "red", Reason.NAMESPACE_MISMATCH),
        (MONITOR, SELF, "_mesh", Reason.NAMESPACE_MISMATCH),
        (ORCHESTRATOR, WRITE_TASKS, "", None),
        (ORCHESTRATOR, WRITE_TASKS, "red", Reason.NAMESPACE_MISMATCH),
        (ORCHESTRATOR, WRITE_TASKS, "_mesh", Reason.NAMESPACE_MISMATCH),
        (ORCHESTRATOR, MESH, "", Reason.ACCESS_DENIED),
        (MONITOR, WRITE_TASKS, "blue", Reason.ACCESS_DENIED),
        # The namespace is decided before the table: the answer does not tell whether the action would be allowed.
        (MONITOR, WRITE_TASKS, "red", Reason.NAMESPACE_MISMATCH),
        (LOCAL_OPERATOR, WRITE_TASKS, "red", None),
        (LOCAL_OPERATOR, WRITE_TASKS, "_mesh", None),
        (LOCAL_OPERATOR, WRITE_TASKS, "", None),
        (LOCAL_OPERATOR, MESH, "", None),
        (NARROW_OPERATOR, READ_TASKS, "red", None),
        (NARROW_OPERATOR, WRITE_TASKS, "red", Reason.ACCESS_DENIED),
        (NARROW_OPERATOR, MESH, "", Reason.ACCESS_DENIED),
    ],
)
def test_decision(principal: Any, rule: Any, namespace: Any, reason: Any) -> None:
    assert refused(principal, rule, namespace) is reason


def test_who_reaches_for_operators_is_told_what_they_are() -> None:
    with pytest.raises(Refusal, match="only operators may act in _mesh"):
        decide(ORCHESTRATOR, WRITE_TASKS, "_mesh")


def test_may_see() -> None:
    assert ORCHESTRATOR.may_see("blue")
    assert not ORCHESTRATOR.may_see("red")
    assert not ANONYMOUS.may_see("")
    assert LOCAL_OPERATOR.may_see("red")


@pytest.mark.parametrize(
    ("kind", "data", "results"),
    [
        ("ORCHESTRATOR", True, True),
        ("WORKER", False, False),
        ("MONITOR", True, True),
        ("INTEGRATOR", True, False),
        ("GOVERNOR", False, False),
        ("CRITIC", False, False),
    ],
)
def test_what_is_in_a_task_of_others_goes_by_the_table(kind: str, data: bool, results: bool) -> None:
    reader = Principal("agent", "agent:blue/a", "blue", "a", AgentType[kind], expire_ms=1)
    assert may_read_part(reader, "data", "b") is data
    assert may_read_part(reader, "results", "b") is results


def test_a_worker_reads_what_is_in_its_own_attempts() -> None:
    worker = Principal("agent", "agent:blue/a", "blue", "a", AgentType.WORKER, expire_ms=1)
    assert may_read_part(worker, "data", "a")
    assert may_read_part(worker, "results", "a")


def test_operators_read_what_is_in_tasks_as_far_as_their_scope() -> None:
    assert may_read_part(LOCAL_OPERATOR, "data", "a")
    assert not may_read_part(NARROW_OPERATOR, "data", "a")
    assert not may_read_part(NARROW_OPERATOR, "results", "a")
