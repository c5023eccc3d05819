"""What an agent's type may do, and what a scope leaves of it; docs/concepts.md, "Access", says how meshd decides.

Rule: it explains and decides nothing. A test holds it against meshd's own table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ANY = "*"
#: By type: actions, and the resources on which they are allowed.
RIGHTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "orchestrator": (frozenset((ANY,)), frozenset((ANY,))),
    "worker": (frozenset(("read", "execute")), frozenset(("tasks", "results"))),
    "monitor": (frozenset(("read",)), frozenset((ANY,))),
    "integrator": (frozenset(("read", "write")), frozenset(("integrations", "data"))),
    "governor": (frozenset(("read", "write", "admin")), frozenset(("policies", "acl", "audit"))),
    "critic": (frozenset(("read", "write")), frozenset(("reviews", "feedback", "metrics"))),
}
OPERATOR = (frozenset((ANY,)), frozenset((ANY,)))


def text(agent_type: str, scope: Sequence[str]) -> str:
    """Returns in words what a token of this type (empty: an operator's) and scope may do; empty for an unknown type."""
    row = RIGHTS.get(agent_type) if agent_type else OPERATOR
    if row is None:
        return ""
    parts = [_part(*row)] if not scope else [part for entry in scope if (part := _cut(row, entry))]
    return "; ".join(parts) or "nothing: its type may not do what its scope names"


def _cut(row: tuple[frozenset[str], frozenset[str]], entry: str) -> str:
    action, _, resource = entry.partition(":")
    actions, resources = _common(row[0], action), _common(row[1], resource)
    return _part(actions, resources) if actions and resources else ""


def _common(allowed: frozenset[str], word: str) -> frozenset[str]:
    if word == ANY:
        return allowed
    return frozenset((word,)) if word in allowed or ANY in allowed else frozenset()


def _part(actions: Iterable[str], resources: Iterable[str]) -> str:
    return f"{_words(actions)} on {_words(resources)}"


def _words(words: Iterable[str]) -> str:
    return ", ".join("everything" if word == ANY else word for word in sorted(words))
