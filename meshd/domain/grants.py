"""What may be granted, and to which family a credential belongs.

Rule: nobody grants more than they hold. A family is a path of segments joined by ``/``: one for each credential in
the line of descent, the own one last. A segment is ``<agent id>.<generation>.<random>`` for agents and
``@<name>.<generation>.<random>`` for operators. A credential is revoked when any prefix of its path is, or when any
holder in it has a newer generation: so what was issued from a credential ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from meshd.domain.access import ANY, Principal, scope_covers
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType

MAX_DESCENT: Final = 4
"""Longest line of credentials issued from one another; keeps tokens short."""

MAX_TOKEN_LIFETIME_MS: Final = 3_600_000

MAX_OPERATOR_LIFETIME_MS: Final = 24 * 3_600_000
"""Of an operator's token, which nobody renews for a person: a working day, and at most one (docs/adr/0003)."""

LOCAL_NAME: Final = "local"
"""Name of whoever uses the operator socket; no token carries it, so that the audit log tells both apart."""

GRANTABLE_TYPES: Final[dict[AgentType, frozenset[AgentType]]] = {
    AgentType.ORCHESTRATOR: frozenset(AgentType) - {AgentType.GOVERNOR},
    AgentType.GOVERNOR: frozenset(
        (AgentType.WORKER, AgentType.MONITOR, AgentType.INTEGRATOR, AgentType.CRITIC)
    ),
}
"""Types whose agents may grant, and which types they grant."""


def check_grant(
    caller: Principal, agent_type: AgentType | None, capabilities: Iterable[str], scope: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the scope of what the caller grants; refuses what goes beyond the caller's own rights.

    ``agent_type`` None grants an operator's token. An empty scope under a narrowed caller becomes the caller's.
    """
    if caller.kind != "operator":
        grantable = GRANTABLE_TYPES.get(caller.agent_type, frozenset()) if caller.agent_type else frozenset()
        if agent_type not in grantable:
            words = agent_type.name.lower() if agent_type else "operator"
            raise _beyond(f"{caller.subject} may not grant the type {words}; ask an operator", "type")
    if not covers_capabilities(caller.capabilities, capabilities):
        raise _beyond(
            "the capabilities go beyond those of the caller's own token; name fewer", "capabilities"
        )
    if not caller.scope:
        return scope
    for entry in scope:
        action, _, resource = entry.partition(":")
        if not scope_covers(caller.scope, action, resource):
            raise _beyond("the scope goes beyond that of the caller's own token; name less", "scope")
    return scope or caller.scope


def covers_capabilities(held: Iterable[str], wanted: Iterable[str]) -> bool:
    """True when every wanted skill is held; ``*`` holds all."""
    have = frozenset(held)
    return ANY in have or have.issuperset(wanted)


def child_family(parent: str, segment: str) -> str:
    """Return the family of a credential issued from ``parent`` (empty: from nothing that can be revoked)."""
    if not parent:
        return segment
    if parent.count("/") + 2 > MAX_DESCENT:
        message = (
            f"credentials may be issued from one another {MAX_DESCENT} deep; ask one nearer to the operator"
        )
        raise _beyond(message, "")
    return f"{parent}/{segment}"


def parent_family(family: str) -> str:
    """Return the family of the credential that one was issued from; empty when there is none."""
    return family.rpartition("/")[0]


def agent_segment(agent_id: str, generation: int, random: str) -> str:
    """Return the segment of a credential held by an agent."""
    return f"{agent_id}.{generation}.{random}"


def operator_segment(name: str, generation: int, random: str) -> str:
    """Return the segment of a credential held by a named operator."""
    return f"@{agent_segment(name, generation, random)}"


def is_operator_family(family: str) -> bool:
    """True when the holder, not merely an ancestor, is an operator."""
    return family.rpartition("/")[2].startswith("@")


def family_prefixes(family: str) -> Iterator[str]:
    """Yield every family in the line of descent, the root first and the family itself last."""
    end = family.find("/")
    while end != -1:
        yield family[:end]
        end = family.find("/", end + 1)
    yield family


def holder(family: str) -> tuple[str, int] | None:
    """Return (agent id or operator's name, generation) of who holds a credential of the family; None for no family."""
    name, _, rest = family.rpartition("/")[2].removeprefix("@").partition(".")
    generation, _, _ = rest.partition(".")
    return (name, int(generation)) if generation.isdecimal() else None


def check_operator_name(name: str, field: str) -> None:
    """Refuse the name of the local operator."""
    if name == LOCAL_NAME:
        message = f"{field} is {LOCAL_NAME}, which is whoever uses the operator socket; name a person"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field=field)


def token_expired(*, for_operator: bool) -> Refusal:
    """Return the refusal of a token that has run out."""
    next_step = (
        "have another operator issue a new one by IssueToken"
        if for_operator
        else "renew it by RenewToken and call again"
    )
    return Refusal(Reason.TOKEN_EXPIRED, f"the token has expired; {next_step}")


def _beyond(message: str, field: str) -> Refusal:
    return Refusal(Reason.GRANT_EXCEEDS_CALLER, message, field=field)
