"""Credentials and audit records between contract and domain."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from agentmesh.v1 import auth_service_pb2 as pb
from meshd.domain.access import ANY, RESOURCES, SYSTEM_NAMESPACE
from meshd.domain.grants import MAX_OPERATOR_LIFETIME_MS, MAX_TOKEN_LIFETIME_MS
from meshd.domain.limits import MAX_CAPABILITIES
from meshd.domain.records import AuditRecord, SigningKeyRecord
from meshd.domain.values import AgentType
from meshd.engine.authority import Introspection, Target
from meshd.engine.enrolment import Grant, IssuedToken
from meshd.wire import validate
from meshd.wire.codec.values import enum, timestamp

MIN_LIFETIME_MS: Final = 1_000
DEFAULT_JOIN_LIFETIME_MS: Final = 600_000
MAX_JOIN_LIFETIME_MS: Final = 24 * 3_600_000
MAX_JOIN_USES: Final = 1_000
MAX_SCOPE_ENTRIES: Final = 32
MAX_FAMILY_BYTES: Final = 1_024
MAX_WORDS_BYTES: Final = 256

_SCOPE_ENTRY: Final = re.compile(r"(\*|read|write|execute|admin):(\*|[a-z]{1,32})")


def join_grant(namespace: str, request: pb.JoinRequest) -> Grant:
    """Check and convert what a process joins as. Raises Refusal."""
    return Grant(
        _required_namespace(namespace),
        validate.agent_id(request.agent_id),
        enum(AgentType, request.type, "type"),
        capabilities(request.capabilities),
    )


def join_token_grant(namespace: str, request: pb.CreateJoinTokenRequest) -> Grant:
    """Check and convert what a join token shall allow. Raises Refusal."""
    return Grant(
        _required_namespace(namespace),
        validate.agent_id(request.agent_id),
        enum(AgentType, request.type, "type"),
        capabilities(request.capabilities),
    )


def token_grant(namespace: str, request: pb.IssueTokenRequest) -> Grant:
    """Check and convert what a token shall allow. In the system namespace it is an operator's. Raises Refusal."""
    holder = validate.agent_id(request.agent_id)
    if namespace == SYSTEM_NAMESPACE:
        if request.type:
            raise validate.invalid(
                "type", "must be unspecified for an operator's token: operators have no type"
            )
        return Grant(SYSTEM_NAMESPACE, holder, None, (ANY,), scope(request.scope))
    return Grant(
        _required_namespace(namespace),
        holder,
        enum(AgentType, request.type, "type"),
        capabilities(request.capabilities),
        scope(request.scope),
    )


def renewal(namespace: str, request: pb.RenewTokenRequest) -> tuple[str, str]:
    """Return namespace and agent of a renewal. Raises Refusal."""
    return _required_namespace(namespace), validate.agent_id(request.agent_id)


def capabilities(values: Iterable[str]) -> tuple[str, ...]:
    """Check skills, of which ``*`` is any. Raises Refusal."""
    chosen = frozenset(values)
    if ANY in chosen:
        return (ANY,)
    return tuple(sorted(validate.capabilities(chosen, MAX_CAPABILITIES, "capabilities")))


def scope(values: Iterable[str]) -> tuple[str, ...]:
    """Check entries ``action:resource``. Raises Refusal."""
    chosen = tuple(sorted(set(values)))
    if len(chosen) > MAX_SCOPE_ENTRIES:
        raise validate.invalid("scope", f"has {len(chosen)} entries; at most {MAX_SCOPE_ENTRIES} are allowed")
    if not all(_SCOPE_ENTRY.fullmatch(entry) for entry in chosen):
        raise validate.invalid(
            "scope",
            "has an entry that does not read action:resource, the action read, write, execute, admin or *",
        )
    for entry in chosen:
        resource = entry.partition(":")[2]
        if resource != ANY and resource not in RESOURCES:
            raise validate.invalid(
                "scope",
                f"has {entry}, which allows nothing; the resources are {', '.join(sorted(RESOURCES))} and *",
            )
    return chosen


def token_lifetime_ms(lifetime: Duration, *, given: bool, for_operator: bool) -> int:
    """Return the lifetime of a token. Raises Refusal."""
    if not given:
        return MAX_TOKEN_LIFETIME_MS
    max_ms = MAX_OPERATOR_LIFETIME_MS if for_operator else MAX_TOKEN_LIFETIME_MS
    return validate.duration_ms(lifetime, "lifetime", MIN_LIFETIME_MS, max_ms)


def join_token_lifetime_ms(lifetime: Duration, *, given: bool) -> int:
    """Return the lifetime of a join token. Raises Refusal."""
    if not given:
        return DEFAULT_JOIN_LIFETIME_MS
    return validate.duration_ms(lifetime, "lifetime", MIN_LIFETIME_MS, MAX_JOIN_LIFETIME_MS)


def max_uses(value: int) -> int:
    """Return how many processes may join with a join token. Raises Refusal."""
    return int(validate.number(value or 1, 1, MAX_JOIN_USES, "max_uses"))


def target(request: pb.RevokeTokenRequest) -> Target:
    """Check and convert what is to be revoked. Raises Refusal."""
    match request.WhichOneof("target"):
        case "token" if request.token:
            return Target(token=request.token)
        case "family" if request.family:
            return Target(family=validate.text(request.family, MAX_FAMILY_BYTES, "family"))
        case "agent_id":
            return Target(agent_id=validate.agent_id(request.agent_id))
    raise validate.invalid("target", "is empty: name a token, a family or an agent")


def token_to(token: IssuedToken) -> pb.Token:
    """Return the message of a fresh token."""
    message = pb.Token(value=token.value, expire_time=timestamp(token.expire_ms), family=token.family)
    if token.identity_expire_ms:
        message.identity_expire_time.CopyFrom(timestamp(token.identity_expire_ms))
    return message


def introspection_to(found: Introspection) -> pb.IntrospectTokenResponse:
    """Return what a token means."""
    response = pb.IntrospectTokenResponse(
        active=not found.inactive_reason, inactive_reason=found.inactive_reason
    )
    principal = found.principal
    if principal is None:
        return response
    response.subject = principal.subject
    response.namespace = principal.namespace
    if principal.agent_type is not None:
        response.type = int(principal.agent_type)  # type: ignore[assignment]  # the numbers are the contract's
    response.capabilities.extend(sorted(principal.capabilities))
    response.scope.extend(principal.scope)
    response.family = principal.family
    if principal.expire_ms:
        response.issue_time.CopyFrom(timestamp(principal.issue_ms))
        response.expire_time.CopyFrom(timestamp(principal.expire_ms))
    return response


def key_to(key: SigningKeyRecord) -> pb.SigningKey:
    """Return the message of a public signing key."""
    return pb.SigningKey(key_id=key.key_id, public_key=key.public_key, create_time=timestamp(key.create_ms))


def audit_event_to(record: AuditRecord) -> pb.AuditEvent:
    """Return the message of an audit record."""
    return pb.AuditEvent(
        namespace=record.namespace,
        sequence=record.sequence,
        time=timestamp(record.time_ms),
        subject=record.subject,
        peer=record.peer,
        method=record.method,
        object=record.object,
        allowed=record.allowed,
        reason=record.reason,
        count=record.count,
        object_digest=record.object_digest,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )


def _required_namespace(namespace: str) -> str:
    if not namespace:
        raise validate.invalid("namespace", "is empty; name the namespace of the agent")
    return validate.namespace_name(namespace)
