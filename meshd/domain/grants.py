"""What may be granted, and to which family a credential belongs.

Rule: nobody grants more than they hold. A family is a path of segments joined by ``/``: one for each credential in
the line of descent, the own one last. A segment is ``<agent id>.<generation>.<random>`` for agents and
``@<name>.<random>`` for operators. A credential is revoked when any prefix of its path is, or when any agent in it has
a newer generation: so what was issued from a credential ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from meshd.domain.access import ANY, Action, Principal, scope_covers
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import MAX_CAPABILITIES
from meshd.domain.values import AgentType

MAX_DESCENT: Final = 4
"""Longest line of credentials issued from one another; keeps tokens short."""

MAX_SCOPE_ENTRIES: Final = 32

MIN_LIFETIME_MS: Final = 1_000
MAX_TOKEN_LIFETIME_MS: Final = 3_600_000
MAX_JOIN_LIFETIME_MS: Final = 24 * 3_600_000
DEFAULT_JOIN_LIFETIME_MS: Final = 600_000
MAX_JOIN_USES: Final = 1_000

GRANTABLE_TYPES: Final[dict[AgentType, frozenset[AgentType]]] = {
    AgentType.ORCHESTRATOR: frozenset(AgentType) - {AgentType.GOVERNOR},
    AgentType.GOVERNOR: frozenset((AgentType.WORKER, AgentType.MONITOR, AgentType.INTEGRATOR, AgentType.CRITIC)),
}
"""Types whose agents may grant, and which types they grant."""

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SCOPE_ENTRY: Final = re.compile(r"(\*|[a-z]+):(\*|[a-z]+)")
_CAPABILITY: Final = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ACTION_WORDS: Final = frozenset(action.name.lower() for action in Action) | {ANY}


def require_label(value: str, field: str) -> None:
    """Refuse what is no DNS label: namespaces, agent ids, names of operators."""
    if not value:
        raise Refusal(Reason.FIELD_REQUIRED, f"{field} is required", field=field)
    if not _LABEL.fullmatch(value):
        message = f"{field} must be a DNS label: 1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field=field)


def check_capabilities(capabilities: Iterable[str]) -> tuple[str, ...]:
    """Return skills sorted and once each; refuses malformed ones."""
    chosen = tuple(sorted(set(capabilities)))
    if len(chosen) > MAX_CAPABILITIES:
        message = f"{len(chosen)} capabilities are more than {MAX_CAPABILITIES}; use '*' for any"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field="capabilities")
    if not all(_CAPABILITY.fullmatch(capability) for capability in chosen):
        message = "a capability must be '*' or 1 to 128 of A-Z, a-z, 0-9 and ._:/-, the first a letter or digit"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field="capabilities")
    return chosen


def check_scope(scope: Iterable[str]) -> tuple[str, ...]:
    """Return scope entries sorted and once each; refuses malformed ones."""
    chosen = tuple(sorted(set(scope)))
    if len(chosen) > MAX_SCOPE_ENTRIES:
        message = f"{len(chosen)} scope entries are more than {MAX_SCOPE_ENTRIES}"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field="scope")
    for entry in chosen:
        if not _SCOPE_ENTRY.fullmatch(entry) or entry.partition(":")[0] not in _ACTION_WORDS:
            message = "a scope entry reads 'action:resource', the action one of read, write, execute, admin or *"
            raise Refusal(Reason.INVALID_ARGUMENT, message, field="scope")
    return chosen


def check_lifetime(lifetime_ms: int | None, longest_ms: int, default_ms: int) -> int:
    """Return the lifetime asked for, or the default when none was."""
    if lifetime_ms is None:
        return default_ms
    if not MIN_LIFETIME_MS <= lifetime_ms <= longest_ms:
        message = f"the lifetime must be 1 s to {longest_ms // 1_000} s"
        raise Refusal(Reason.INVALID_ARGUMENT, message, field="lifetime")
    return lifetime_ms


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
            raise _beyond(f"{caller.subject} may not grant the type {words}", "type")
    if not covers_capabilities(caller.capabilities, capabilities):
        raise _beyond("the capabilities go beyond those of the caller's token", "capabilities")
    if not caller.scope:
        return scope
    for entry in scope:
        action, _, resource = entry.partition(":")
        if not scope_covers(caller.scope, action, resource):
            raise _beyond("the scope goes beyond that of the caller's token", "scope")
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
        message = f"a line of more than {MAX_DESCENT} credentials issued from one another; ask one nearer the operator"
        raise _beyond(message, "")
    return f"{parent}/{segment}"


def agent_segment(agent_id: str, generation: int, random: str) -> str:
    """Return the segment of a credential held by an agent."""
    return f"{agent_id}.{generation}.{random}"


def operator_segment(name: str, random: str) -> str:
    """Return the segment of a credential held by a named operator."""
    return f"@{name}.{random}"


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
    """Return (agent id, generation) of the agent that holds a credential of the family; None for an operator."""
    segment = family.rpartition("/")[2]
    agent_id, _, rest = segment.partition(".")
    generation, _, _ = rest.partition(".")
    if segment.startswith("@") or not generation.isdecimal():
        return None
    return agent_id, int(generation)


def _beyond(message: str, field: str) -> Refusal:
    return Refusal(Reason.GRANT_EXCEEDS_CALLER, message, field=field)
