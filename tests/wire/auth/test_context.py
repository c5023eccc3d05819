"""The namespace named inside a stream is decided like one named by a request."""

import pytest

from meshd.domain.access import LOCAL_OPERATOR, AccessRule, Action, Call, Principal, Scope
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.wire.context import authorize_namespace

WORK = AccessRule(Action.EXECUTE, "tasks", Scope.NAMESPACE)
WORKER = Principal("agent", "agent:blue/w", "blue", "w", AgentType.WORKER, expire_ms=1)
MONITOR = Principal("agent", "agent:blue/m", "blue", "m", AgentType.MONITOR, expire_ms=1)


@pytest.mark.parametrize(
    ("principal", "routed", "named", "outcome"),
    [
        (WORKER, "blue", "", "blue"),
        (WORKER, "blue", "blue", "blue"),
        (WORKER, "blue", "red", Reason.NAMESPACE_MISMATCH),
        (WORKER, "", "red", Reason.NAMESPACE_MISMATCH),
        (MONITOR, "blue", "blue", Reason.ACCESS_DENIED),
        (LOCAL_OPERATOR, "", "red", "red"),
        (LOCAL_OPERATOR, "red", "", "red"),
        (LOCAL_OPERATOR, "red", "blue", Reason.NAMESPACE_MISMATCH),
        (LOCAL_OPERATOR, "", "", Reason.FIELD_REQUIRED),
    ],
)
def test_namespace(principal: Principal, routed: str, named: str, outcome: str | Reason) -> None:
    call = Call(principal, "Work", "", WORK, routed)
    try:
        found: str | Reason = authorize_namespace(call, named)
    except Refusal as refusal:
        found = refusal.reason
    else:
        assert call.namespace == found
    assert found == outcome
