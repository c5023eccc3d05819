"""Grants: never beyond the granter; families: what descends from a credential ends with it."""

from typing import Any

import pytest

from meshd.domain.access import LOCAL_OPERATOR, Principal
from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import (
    MAX_DESCENT,
    check_grant,
    child_family,
    family_prefixes,
    holder,
    is_operator_family,
    operator_segment,
)
from meshd.domain.values import AgentType

# Written out by hand: who may grant which types.
GRANTS = {
    AgentType.ORCHESTRATOR: {"ORCHESTRATOR", "WORKER", "MONITOR", "INTEGRATOR", "CRITIC"},
    AgentType.WORKER: set(),
    AgentType.MONITOR: set(),
    AgentType.INTEGRATOR: set(),
    AgentType.GOVERNOR: {"WORKER", "MONITOR", "INTEGRATOR", "CRITIC"},
    AgentType.CRITIC: set(),
}


def holding(kind: AgentType, capabilities: Any = ("*",), scope: Any = ()) -> Principal:
    return Principal("agent", "agent:blue/a", "blue", "a", kind, frozenset(capabilities), scope, expire_ms=1)


def allowed(caller: Any, kind: Any, capabilities: Any = (), scope: Any = ()) -> bool:
    try:
        check_grant(caller, kind, capabilities, scope)
    except Refusal as refusal:
        return refusal.reason is not Reason.GRANT_EXCEEDS_CALLER
    return True


@pytest.mark.parametrize("granter", list(AgentType))
def test_types(granter: Any) -> None:
    for kind in AgentType:
        assert allowed(holding(granter), kind) is (kind.name in GRANTS[granter]), (granter, kind)
    assert not allowed(holding(granter), None), "nobody but operators grants an operator's token"


def test_operators_grant_everything() -> None:
    for kind in (*AgentType, None):
        assert allowed(LOCAL_OPERATOR, kind, ("anything",), ("admin:acl",))


def test_capabilities_are_bounded() -> None:
    caller = holding(AgentType.ORCHESTRATOR, ("a", "b"))
    assert allowed(caller, AgentType.WORKER, ("a",))
    assert allowed(caller, AgentType.WORKER, ())
    assert not allowed(caller, AgentType.WORKER, ("a", "c"))
    assert not allowed(caller, AgentType.WORKER, ("*",))


def test_scope_is_bounded_and_inherited() -> None:
    caller = holding(AgentType.ORCHESTRATOR, scope=("admin:acl", "read:*"))
    assert check_grant(caller, AgentType.WORKER, (), ("read:tasks",)) == ("read:tasks",)
    assert check_grant(caller, AgentType.WORKER, (), ()) == ("admin:acl", "read:*")
    assert not allowed(caller, AgentType.WORKER, (), ("execute:tasks",))
    assert not allowed(caller, AgentType.WORKER, (), ("*:acl",))
    assert not allowed(caller, AgentType.WORKER, (), ("read:tasks", "*:*"))


def test_family_paths() -> None:
    root = child_family("", operator_segment("eve", 2, "r1"))
    child = child_family(root, "boss.0.r2")
    grandchild = child_family(child, "w-1.3.r3")
    assert list(family_prefixes(grandchild)) == [
        "@eve.2.r1",
        "@eve.2.r1/boss.0.r2",
        "@eve.2.r1/boss.0.r2/w-1.3.r3",
    ]
    assert holder(grandchild) == ("w-1", 3)
    assert holder(child) == ("boss", 0)
    assert holder(root) == ("eve", 2)
    assert is_operator_family(root)
    assert not is_operator_family(child)
    assert holder("garbage") is None


def test_lines_of_descent_are_bounded() -> None:
    family = ""
    for number in range(MAX_DESCENT):
        family = child_family(family, f"a.0.{number}")
    with pytest.raises(Refusal):
        child_family(family, "a.0.x")
