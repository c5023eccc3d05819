"""Who may do what: the access table as data, and the one function that decides a call.

Rule: ``decide`` is the only place that says yes or no to a call, in one fixed order: authentic, namespace, rules for
oneself, denied actions, allowed by type, narrowed by scope; what nothing allows is denied. The numbers of the enums
are those of the contract.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType

SYSTEM_NAMESPACE: Final = "_mesh"
"""Namespace of keys and operators; only operators reach it."""

ANY: Final = "*"


class Action(IntEnum):
    """What a call does to its resource."""

    READ = 1
    WRITE = 2
    EXECUTE = 3
    ADMIN = 4


class Scope(IntEnum):
    """How far a method reaches."""

    SELF = 1
    NAMESPACE = 2
    MESH = 3


class Decide(IntEnum):
    """When a rule is decided."""

    OPEN = 1
    PER_FRAME = 2


class AccessRule(NamedTuple):
    """The rule that guards one method."""

    action: Action
    resource: str
    scope: Scope
    unauthenticated: bool = False
    """The method proves identity by other means than a token, or needs none."""
    audit: bool = False
    """An OK must not leave before an audit record of the call is durable."""
    decide: Decide = Decide.OPEN


class TypeRights(NamedTuple):
    """One row of the access table; words as in the contract, ``*`` is all of them."""

    allowed_actions: frozenset[str]
    allowed_resources: frozenset[str]
    denied_actions: frozenset[str]


def _row(actions: str, resources: str, denied: str) -> TypeRights:
    return TypeRights(
        frozenset(actions.split()),
        frozenset(resources.split()),
        frozenset(denied.split()),
    )


ACCESS_TABLE: Final[dict[AgentType, TypeRights]] = {
    AgentType.ORCHESTRATOR: _row("*", "*", ""),
    AgentType.WORKER: _row("read execute", "tasks results", "admin"),
    AgentType.MONITOR: _row("read", "*", "write execute admin"),
    AgentType.INTEGRATOR: _row("read write", "integrations data", "admin"),
    AgentType.GOVERNOR: _row("read write admin", "policies acl audit", ""),
    AgentType.CRITIC: _row("read write", "reviews feedback metrics", "admin"),
}

RESOURCES: Final[frozenset[str]] = frozenset(["agents", "keys", "mesh", "namespaces"]).union(
    *(row.allowed_resources - {ANY} for row in ACCESS_TABLE.values())
)
"""All that a scope can name: those of the table, and those of methods that only ``*`` reaches."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    kind: Literal["agent", "operator", "anonymous"]
    subject: str
    """``agent:<namespace>/<agent id>``, ``operator:<name>`` or ``anonymous``."""
    namespace: str = ""
    """Empty for operators and strangers."""
    agent_id: str = ""
    agent_type: AgentType | None = None
    capabilities: frozenset[str] = frozenset()
    """Skills its agent may register; ``*`` is any."""
    scope: tuple[str, ...] = ()
    """Entries ``action:resource`` that narrow what its type may do; empty: nothing is narrowed."""
    family: str = ""
    """Path of the credentials it descends from; see ``meshd.domain.grants``."""
    generation: int = 0
    issue_ms: int = 0
    expire_ms: int = 0
    """Wall time at which its token ends; 0: it has none."""
    via_socket: bool = False

    def may_see(self, namespace: str) -> bool:
        """True when the namespace is its own, or it is an operator."""
        return self.kind == "operator" or (self.kind == "agent" and self.namespace == namespace)


LOCAL_OPERATOR: Final = Principal(
    "operator", "operator:local", capabilities=frozenset((ANY,)), via_socket=True
)
ANONYMOUS: Final = Principal("anonymous", "anonymous")


@dataclass(slots=True, eq=False)
class Call:
    """One call in progress."""

    principal: Principal
    method: str
    """Short name, such as SubmitTask."""
    peer: str
    """Address of the peer without its port, or ``socket``."""
    rule: AccessRule
    namespace: str = ""
    """The namespace it concerns: the request's, else that of its metadata, else the caller's own. Empty for an
    operator that named none."""
    audited: bool = False
    """An audit record of it is part of a commit."""
    stream: object | None = None
    """Handle of the authority, while the call is a stream; needed to authenticate it again."""
    check_not_revoked: Callable[[Call], None] | None = None
    """Of the authority; asked again before what a call has long waited for takes effect."""
    revocation_epoch: int = 0
    """Of the authority, when its caller's credential was last seen not to be revoked."""


def decide(principal: Principal, rule: AccessRule, namespace: str) -> None:
    """Return when the principal may make a call under this rule that names this namespace (empty: its own).

    Raises Refusal: TOKEN_MISSING, NAMESPACE_MISMATCH or ACCESS_DENIED.
    """
    if rule.unauthenticated:
        return
    if principal.kind == "anonymous":
        raise Refusal(
            Reason.TOKEN_MISSING,
            "this call needs a token: send the metadata 'authorization: Bearer <token>'",
        )
    operator = principal.kind == "operator"
    if namespace and not operator and namespace != principal.namespace:
        message = (
            f"only operators may act in {SYSTEM_NAMESPACE}, where operators are; {principal.subject} is none"
            if namespace == SYSTEM_NAMESPACE
            else f"{principal.subject} may not reach another namespace; leave the namespace empty or name its own"
        )
        raise Refusal(Reason.NAMESPACE_MISMATCH, message, field="namespace")
    if rule.scope is Scope.SELF:
        return
    action = rule.action.name.lower()
    if not operator:
        if rule.scope is Scope.MESH:
            raise Refusal(
                Reason.ACCESS_DENIED,
                "only operators may do this; use the operator socket",
            )
        assert principal.agent_type is not None
        if not type_allows(principal.agent_type, action, rule.resource):
            raise Refusal(
                Reason.ACCESS_DENIED,
                f"agents of type {principal.agent_type.name.lower()} may not {action} {rule.resource}",
            )
    if principal.scope and not scope_covers(principal.scope, action, rule.resource):
        raise Refusal(
            Reason.ACCESS_DENIED,
            f"the scope of this token does not include {action}:{rule.resource}; use a token with a wider scope",
        )


def may_read_part(principal: Principal, resource: Literal["data", "results"], holder: str) -> bool:
    """Decide the object rule: whether who may read a task may read its input (``data``) or its result (``results``).

    Output and the text of progress are parts of a result. A scope must include reading them. ``holder`` is the agent
    whose attempt it is about: a worker reads of no attempts but its own, and of those the input as well.
    """
    if principal.scope and not scope_covers(principal.scope, Action.READ.name.lower(), resource):
        return False
    if principal.agent_type is AgentType.WORKER:
        return holder == principal.agent_id
    return principal.agent_type is None or type_allows(
        principal.agent_type, Action.READ.name.lower(), resource
    )


def type_allows(agent_type: AgentType, action: str, resource: str) -> bool:
    """Ask the access table: denied actions first, then allowed action and resource."""
    row = ACCESS_TABLE[agent_type]
    if action in row.denied_actions:
        return False
    return (ANY in row.allowed_actions or action in row.allowed_actions) and (
        ANY in row.allowed_resources or resource in row.allowed_resources
    )


def scope_covers(scope: tuple[str, ...], action: str, resource: str) -> bool:
    """True when an entry of the scope includes ``action:resource``; either part of an entry may be ``*``."""
    for entry in scope:
        entry_action, _, entry_resource = entry.partition(":")
        if entry_action in (ANY, action) and entry_resource in (ANY, resource):
            return True
    return False
