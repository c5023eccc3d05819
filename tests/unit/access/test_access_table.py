"""The access table, cell by cell, against an expectation written out by hand: it shares nothing with the code."""

import itertools
from typing import Any

import pytest

from meshd.domain.access import ACCESS_TABLE, AccessRule, Action, Principal, Scope, decide, type_allows
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType

RESOURCES = (
    "agents",
    "tasks",
    "results",
    "integrations",
    "data",
    "policies",
    "acl",
    "audit",
    "reviews",
    "feedback",
    "metrics",
    "namespaces",
    "mesh",
    "messages",
    "keys",
)
ACTIONS = ("read", "write", "execute", "admin")

# One line per type and resource: what may be done with it. A resource that is not named: nothing.
EVERYTHING = dict.fromkeys(RESOURCES, "read write execute admin")
EXPECTED = {
    "orchestrator": EVERYTHING,
    "worker": {
        "tasks": "read execute",
        "results": "read execute",
    },
    "monitor": dict.fromkeys(RESOURCES, "read"),
    "integrator": {
        "integrations": "read write",
        "data": "read write",
    },
    "governor": {
        "policies": "read write admin",
        "acl": "read write admin",
        "audit": "read write admin",
    },
    "critic": {
        "reviews": "read write",
        "feedback": "read write",
        "metrics": "read write",
    },
}
CELLS = list(itertools.product(EXPECTED, ACTIONS, RESOURCES))


def agent(kind: str, scope: tuple[str, ...] = ()) -> Principal:
    return Principal(
        "agent", f"agent:blue/{kind}", "blue", kind, AgentType[kind.upper()], scope=scope, expire_ms=1
    )


def reason_of(principal: Principal, rule: AccessRule) -> Reason | None:
    try:
        decide(principal, rule, principal.namespace)
    except Refusal as refusal:
        return refusal.reason
    return None


def test_every_type_has_a_row() -> None:
    assert {kind.name.lower() for kind in ACCESS_TABLE} == set(EXPECTED)
    assert len(CELLS) == 6 * 4 * len(RESOURCES)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_cell(kind: Any) -> None:
    for action, resource in itertools.product(ACTIONS, RESOURCES):
        expected = action in EXPECTED[kind].get(resource, "").split()
        assert type_allows(AgentType[kind.upper()], action, resource) is expected, (kind, action, resource)
        rule = AccessRule(Action[action.upper()], resource, Scope.NAMESPACE)
        assert reason_of(agent(kind), rule) is (None if expected else Reason.ACCESS_DENIED), (
            kind,
            action,
            resource,
        )


@pytest.mark.parametrize("kind", EXPECTED)
def test_scope_only_narrows(kind: Any) -> None:
    for action, resource in itertools.product(ACTIONS, RESOURCES):
        allowed = action in EXPECTED[kind].get(resource, "").split()
        rule = AccessRule(Action[action.upper()], resource, Scope.NAMESPACE)
        for scope, covers in (
            (("*:*",), True),
            ((f"{action}:*",), True),
            ((f"*:{resource}",), True),
            ((f"{action}:{resource}",), True),
            (("read:nothing",), False),
            ((f"{action}:nothing", f"{action}x:{resource}"), False),
        ):
            decided = reason_of(agent(kind, scope), rule) is None
            assert decided is (allowed and covers), (kind, action, resource, scope)


def test_a_denied_action_beats_every_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    # No row of the seed's table denies what it also allows; the order must hold for one that does.
    row = ACCESS_TABLE[AgentType.ORCHESTRATOR]._replace(denied_actions=frozenset({"admin"}))
    monkeypatch.setitem(ACCESS_TABLE, AgentType.ORCHESTRATOR, row)
    assert not type_allows(AgentType.ORCHESTRATOR, "admin", "acl")
    assert type_allows(AgentType.ORCHESTRATOR, "write", "acl")
