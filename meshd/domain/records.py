"""Records of identity and audit that share the commit of the change they speak of.

Rule: plain rows. ``Writes`` is everything one commit makes durable; the store reads it on the event loop's thread
before the next change, so it may hold references to mutable tasks and agents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from meshd.domain.drains import Drain
from meshd.domain.values import Agent, EndedAttempt, NamespaceInfo, Task


class JoinTokenRecord(NamedTuple):
    """A join token: row of ``join_tokens``, replaced as a whole."""

    token_hash: bytes
    namespace: str
    agent_id: str
    agent_type: int
    capabilities: tuple[str, ...]
    expire_ms: int
    uses_left: int
    create_ms: int
    parent: str
    """Family of the credential that created it; empty when the local operator did. Revoked together."""


class IdentityRecord(NamedTuple):
    """An agent's key: row of ``identities``, one per agent, replaced as a whole."""

    namespace: str
    agent_id: str
    agent_type: int
    capabilities: tuple[str, ...]
    public_key: bytes
    """Ed25519, 32 bytes; empty after revocation."""
    family: str
    expire_ms: int
    """Until when the key renews tokens."""
    generation: int
    """Tokens of the agent with a lower generation are revoked."""


class RevocationRecord(NamedTuple):
    """A revoked token family: row of ``revocations``; may be swept after ``keep_until_ms``."""

    family: str
    namespace: str
    revoke_ms: int
    keep_until_ms: int


class SigningKeyRecord(NamedTuple):
    """Public half of a signing key: row of ``signing_keys``."""

    key_id: str
    public_key: bytes
    create_ms: int


class AuditRecord(NamedTuple):
    """One record of a namespace's audit chain: row of ``audit``."""

    namespace: str
    sequence: int
    time_ms: int
    subject: str
    peer: str
    method: str
    object: str
    allowed: bool
    reason: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a record
    object_digest: bytes
    previous_hash: bytes
    hash: bytes


@dataclass(slots=True)
class Writes:
    """Everything one commit makes durable."""

    new_tasks: dict[int, Task] = field(default_factory=dict)
    changed_tasks: dict[int, Task] = field(default_factory=dict)
    """Never holds a key that is in ``new_tasks``."""
    outputs: list[tuple[int, bytes]] = field(default_factory=list)
    """(task key, encoded Payload) of accepted results."""
    attempts: list[EndedAttempt] = field(default_factory=list)
    agents: dict[tuple[str, str], Agent] = field(default_factory=dict)
    namespaces: list[NamespaceInfo] = field(default_factory=list)
    drains: dict[tuple[str, str], Drain] = field(default_factory=dict)
    join_tokens: dict[bytes, JoinTokenRecord] = field(default_factory=dict)
    identities: dict[tuple[str, str], IdentityRecord] = field(default_factory=dict)
    revocations: list[RevocationRecord] = field(default_factory=list)
    signing_keys: list[SigningKeyRecord] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    payload_bytes: int = 0
    """Bytes of payloads and outputs in here, for the bound on uncommitted work."""

    def __bool__(self) -> bool:
        """True when there is anything to commit."""
        return bool(
            self.new_tasks
            or self.changed_tasks
            or self.agents
            or self.audit
            or self.attempts
            or self.namespaces
            or self.drains
            or self.join_tokens
            or self.identities
            or self.revocations
            or self.signing_keys
        )

    def task_changed(self, task: Task) -> None:
        """Note a durable change of a task; one that is new in this commit is written once anyway."""
        if task.key not in self.new_tasks:
            self.changed_tasks[task.key] = task
