"""The call in progress, for the services.

Rule: the chain sets it once per call, in the call's own task; nobody else does.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from meshd.domain.access import Call, decide
from meshd.domain.errors import Reason, Refusal

_current: Final[ContextVar[Call]] = ContextVar("meshd_call")


def current_call() -> Call:
    """Return the call this task handles. Raises LookupError outside of a call."""
    return _current.get()


def set_current_call(call: Call) -> None:
    """Make this the call of the running task; for the chain."""
    _current.set(call)


def authorize_namespace(call: Call, namespace: str) -> str:
    """Decide the call's rule for a namespace named inside a stream, and return the namespace in force.

    Empty means the caller's own. Raises Refusal: NAMESPACE_MISMATCH, ACCESS_DENIED, or FIELD_REQUIRED when an
    operator named none.
    """
    if namespace and call.namespace and namespace != call.namespace:
        raise Refusal(
            Reason.NAMESPACE_MISMATCH,
            "the frame names another namespace than the stream; open one stream for each namespace",
            field="namespace",
        )
    decide(call.principal, call.rule, namespace)
    chosen = namespace or call.namespace
    if not chosen:
        raise Refusal(
            Reason.FIELD_REQUIRED, "name the namespace: an operator has none of its own", field="namespace"
        )
    call.namespace = chosen
    return chosen
