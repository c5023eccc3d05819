"""A mesh's authority without its engine and store, for tests: real domain and security, commits that only count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshd.domain.access import ANONYMOUS, LOCAL_OPERATOR, AccessRule, Action, Call, Principal, Scope
from meshd.domain.errors import Refusal
from meshd.domain.records import Writes
from meshd.domain.values import AgentType
from meshd.engine.audit import AuditLog
from meshd.engine.authority import Authority, Target
from meshd.engine.challenge import proof_message
from meshd.engine.commits import Commits, storage_failed
from meshd.engine.credentials import Credentials
from meshd.engine.enrolment import Enrolment, Grant, IssuedToken
from meshd.ports.store import Restored
from meshd.security.keys import SigningKey, load_signing_key
from meshd.security.proofs import Ed25519Proofs
from meshd.security.tokens import JwtTokens

START_MS = 1_700_000_000_000
RULE = AccessRule(Action.ADMIN, "acl", Scope.NAMESPACE, audit=True)


class CountingCommits:
    """Stands for the commits: everything is durable once ``settled`` was awaited, unless the storage failed."""

    def __init__(self) -> None:
        self.writes = Writes()
        self.settles = 0
        self.failed = False
        self.lags = False

    async def settled(self) -> None:
        self.settles += 1
        if self.failed:
            raise storage_failed()


class AgentKey:
    """An agent's own key."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def prove(self, namespace: str, agent_id: str, nonce: bytes) -> bytes:
        return self._private.sign(proof_message(namespace, agent_id, nonce))


def restored_from(writes: Writes | None = None) -> Restored:
    """What a start would load after these writes."""
    writes = writes or Writes()
    return Restored(
        namespaces=[],
        agents=[],
        tasks=[],
        drains=[],
        next_key=1,
        join_tokens=list(writes.join_tokens.values()),
        identities=list(writes.identities.values()),
        revocations=list(writes.revocations),
        signing_keys=list(writes.signing_keys),
        audit_heads={record.namespace: (record.sequence, record.hash) for record in writes.audit},
    )


@dataclass
class World:
    """An authority with an enrolment, a clock that is set by hand, and what a start would restore."""

    key: SigningKey
    restored: Restored = field(default_factory=restored_from)
    now_ms: int = START_MS
    namespaces: set[str] = field(default_factory=lambda: {"blue", "red"})
    revoked_agents: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counting = CountingCommits()
        commits = cast("Commits", self.counting)
        self.tokens = JwtTokens(self.key, "agentmesh")
        self.audit = AuditLog(commits, self.restored.audit_heads, self.clock)
        credentials = Credentials(self.restored, commits, self.now_ms, 30 * 24 * 3_600_000)
        self.authority = Authority(
            tokens=self.tokens,
            credentials=credentials,
            commits=commits,
            audit=self.audit,
            on_agent_revoked=lambda namespace, agent_id: self.revoked_agents.append((namespace, agent_id)),
            wall_ms=self.clock,
        )
        self.enrolment = Enrolment(
            tokens=self.tokens,
            proofs=Ed25519Proofs(),
            credentials=credentials,
            commits=commits,
            audit=self.audit,
            namespace_exists=self.namespaces.__contains__,
            wall_ms=self.clock,
        )

    @property
    def writes(self) -> Writes:
        return self.counting.writes

    def clock(self) -> int:
        return self.now_ms

    def restart(self) -> World:
        return World(self.key, restored_from(self.writes), self.now_ms, self.namespaces)

    def call(self, principal: Principal = LOCAL_OPERATOR, method: str = "Test") -> Call:
        return Call(
            principal, method, "socket" if principal.via_socket else "127.0.0.1", RULE, principal.namespace
        )

    async def issue(
        self, agent_id: str, kind: AgentType, by: Principal = LOCAL_OPERATOR, **grant: Any
    ) -> IssuedToken:
        lifetime_ms = grant.pop("lifetime_ms", 3_600_000)
        namespace = grant.pop("namespace", by.namespace or "blue")
        wanted = Grant(namespace, agent_id, kind, grant.pop("capabilities", ("*",)), grant.pop("scope", ()))
        return await self.enrolment.issue(self.call(by), wanted, lifetime_ms)

    async def issue_operator(
        self,
        name: str,
        by: Principal = LOCAL_OPERATOR,
        scope: tuple[str, ...] = (),
        lifetime_ms: int = 3_600_000,
    ) -> IssuedToken:
        grant = Grant("_mesh", name, None, ("*",), scope)
        return await self.enrolment.issue(self.call(by), grant, lifetime_ms)

    async def join(self, agent_id: str, key: AgentKey, join_token: str = "", **grant: Any) -> IssuedToken:
        caller = grant.pop("by", ANONYMOUS if join_token else LOCAL_OPERATOR)
        wanted = Grant(
            grant.pop("namespace", "blue"),
            agent_id,
            grant.pop("kind", AgentType.WORKER),
            grant.pop("capabilities", ()),
        )
        return await self.enrolment.join(self.call(caller), wanted, join_token, key.public)

    async def join_token(self, agent_id: str, by: Principal = LOCAL_OPERATOR, **grant: Any) -> str:
        wanted = Grant(
            by.namespace or "blue",
            agent_id,
            grant.pop("kind", AgentType.WORKER),
            grant.pop("capabilities", ("*",)),
        )
        uses, lifetime_ms = grant.pop("max_uses", 1), grant.pop("lifetime_ms", 600_000)
        return (await self.enrolment.create_join_token(self.call(by), wanted, lifetime_ms, uses)).value

    async def renew(self, agent_id: str, key: AgentKey, namespace: str = "blue") -> IssuedToken:
        call = self.call(ANONYMOUS)
        nonce = self.enrolment.challenge(call, namespace, agent_id)
        return await self.enrolment.renew(
            call, namespace, agent_id, nonce, key.prove(namespace, agent_id, nonce)
        )


def new_world(directory: Path) -> World:
    """A world with a fresh signing key kept in the directory."""
    return World(load_signing_key(directory / "keys"))


async def revoke(world: World, by: Any = LOCAL_OPERATOR, namespace: Any = "blue", **target: Any) -> int:
    return await world.authority.revoke(world.call(by), namespace, Target(**target), "words")


async def refusal(awaitable: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value
