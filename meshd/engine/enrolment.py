"""Enrolment: how processes become agents, and how agents and operators come to fresh tokens.

Invariant: nothing is granted beyond what the caller, the join token or the registered key allows; every grant is made
in one synchronous turn together with its audit record, and the reply leaves when that commit is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final, NamedTuple

from meshd.domain.access import ANY, SYSTEM_NAMESPACE, Call
from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import (
    MAX_TOKEN_LIFETIME_MS,
    agent_segment,
    check_grant,
    check_operator_name,
    child_family,
    covers_capabilities,
    operator_segment,
    parent_family,
)
from meshd.domain.records import IdentityRecord, JoinTokenRecord
from meshd.domain.values import AgentType
from meshd.engine.audit import AuditLog
from meshd.engine.challenge import Challenges, proof_message
from meshd.engine.commits import Commits
from meshd.engine.credentials import Credentials, principal_of, system_wall_ms
from meshd.ports.proofs import Proofs
from meshd.ports.tokens import TokenClaims, Tokens

NOBODYS_KEY: Final = b"\x58" + 31 * b"\x66"
"""A point of the curve, against which a signature is verified for an agent that has no key; nothing follows from it."""


class Grant(NamedTuple):
    """What a new credential shall allow; already checked field by field."""

    namespace: str
    agent_id: str
    """For an operator's token, the operator's name."""
    agent_type: AgentType | None
    """None for an operator's token, in the system namespace."""
    capabilities: tuple[str, ...]
    scope: tuple[str, ...] = ()


class IssuedToken(NamedTuple):
    """A fresh token."""

    value: str
    expire_ms: int
    family: str
    identity_expire_ms: int = 0
    """Until when the agent's key renews it; 0 when no key does."""


class IssuedJoinToken(NamedTuple):
    """A fresh join token; its value is kept nowhere."""

    value: str
    expire_ms: int


class Enrolment:
    """Joins, renews and issues."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        proofs: Proofs,
        credentials: Credentials,
        commits: Commits,
        audit: AuditLog,
        namespace_exists: Callable[[str], bool],
        wall_ms: Callable[[], int] = system_wall_ms,
    ) -> None:
        self._tokens = tokens
        self._proofs = proofs
        self._credentials = credentials
        self._commits = commits
        self._audit = audit
        self._namespace_exists = namespace_exists
        self._wall_ms = wall_ms
        self._challenges = Challenges()

    async def join(self, call: Call, grant: Grant, join_token: str, public_key: bytes) -> IssuedToken:
        """Make a process an agent. Raises Refusal JOIN_TOKEN_INVALID, GRANT_EXCEEDS_CALLER, INVALID_ARGUMENT."""
        if not self._proofs.valid_key(public_key):
            raise Refusal(
                Reason.INVALID_ARGUMENT, "public_key must be an Ed25519 key of 32 bytes", field="public_key"
            )
        if join_token:
            known = self._redeemable(join_token, grant)
            allowed, parent = known.capabilities, known.parent
        else:
            self._check_socket_join(call, grant, public_key)
            known, allowed, parent = None, (ANY,), ""
        self._require_namespace(grant.namespace)
        capabilities = grant.capabilities or allowed
        if not covers_capabilities(allowed, capabilities):
            message = "the capabilities go beyond those of the join token; name fewer or none"
            raise Refusal(Reason.GRANT_EXCEEDS_CALLER, message, field="capabilities")
        assert grant.agent_type is not None
        now_ms = self._wall_ms()
        old = self._credentials.identity(grant.namespace, grant.agent_id)
        generation = old.generation if old else 0
        if (
            old
            and old.public_key == public_key
            and not self._credentials.revoked(grant.namespace, old.family)
            # What another credential grants must end with that one.
            and (not parent or parent == parent_family(old.family))
        ):
            family = old.family
        else:
            family = child_family(parent, agent_segment(grant.agent_id, generation, token_urlsafe(16)))
        identity = IdentityRecord(
            grant.namespace,
            grant.agent_id,
            int(grant.agent_type),
            capabilities,
            public_key,
            family,
            now_ms + self._credentials.identity_ttl_ms,
            generation,
        )
        claims = self._claims_for(identity, now_ms)
        token = self._signed(claims, identity.expire_ms)
        if known is not None:
            self._credentials.put_join_token(known._replace(uses_left=known.uses_left - 1))
            # It proved to be the agent, and is recorded as such.
            call.principal = principal_of(claims)
        self._credentials.put_identity(identity)
        return await self._granted(call, token, grant)

    def challenge(self, call: Call, namespace: str, agent_id: str) -> bytes:
        """Return a nonce to sign. Known and unknown agents are not told apart."""
        call.audited = (
            True  # Grants nothing and changes nothing: the record is written when the proof arrives.
        )
        return self._challenges.nonce(namespace, agent_id, self._wall_ms())

    async def renew(
        self, call: Call, namespace: str, agent_id: str, nonce: bytes, signature: bytes
    ) -> IssuedToken:
        """Return a fresh token to an agent that signed its nonce. Raises Refusal PROOF_INVALID or TOKEN_REVOKED."""
        now_ms = self._wall_ms()
        identity = self._credentials.identity(namespace, agent_id)
        message = proof_message(namespace, agent_id, nonce)
        # Verified in any case: the time it takes must not tell strangers which agents have joined.
        key = identity.public_key if identity is not None else b""
        if (
            not self._challenges.valid(nonce, namespace, agent_id, now_ms)
            or not self._proofs.valid_signature(key or NOBODYS_KEY, message, signature)
            or identity is None
            or not key
        ):
            raise Refusal(
                Reason.PROOF_INVALID, "the proof is wrong, stale, or the agent has no key; join again"
            )
        if self._credentials.revoked(namespace, identity.family):
            raise Refusal(
                Reason.TOKEN_REVOKED, "the agent's credential was revoked; ask an operator for a join token"
            )
        if identity.expire_ms <= now_ms:
            raise Refusal(Reason.PROOF_INVALID, "the agent's key was not used for too long; join again")
        identity = identity._replace(expire_ms=now_ms + self._credentials.identity_ttl_ms)
        claims = self._claims_for(identity, now_ms)
        token = self._signed(claims, identity.expire_ms)
        call.principal = principal_of(claims)
        self._credentials.put_identity(identity)
        return await self._granted(call, token, Grant(namespace, agent_id, None, ()))

    async def issue(self, call: Call, grant: Grant, lifetime_ms: int) -> IssuedToken:
        """Return a token for an agent, or for an operator: that one ends no later than the caller's own.

        Raises Refusal GRANT_EXCEEDS_CALLER and others.
        """
        caller = call.principal
        scope = check_grant(caller, grant.agent_type, grant.capabilities, grant.scope)
        now_ms = self._wall_ms()
        expire_ms = now_ms + lifetime_ms
        random = token_urlsafe(16)
        generation = self._credentials.generation(grant.namespace, grant.agent_id)
        if grant.agent_type is None:
            check_operator_name(grant.agent_id, "agent_id")
            # Else an operator could hand itself one token after another.
            expire_ms = min(expire_ms, caller.expire_ms or expire_ms)
            segment = operator_segment(grant.agent_id, generation, random)
            subject, namespace = f"operator:{grant.agent_id}", ""
        else:
            self._require_namespace(grant.namespace)
            segment = agent_segment(grant.agent_id, generation, random)
            subject, namespace = f"agent:{grant.namespace}/{grant.agent_id}", grant.namespace
        claims = self._timed(
            TokenClaims(
                subject,
                namespace,
                grant.agent_type,
                grant.capabilities,
                scope,
                token_urlsafe(16),
                child_family(caller.family, segment),
                generation,
                now_ms,
                expire_ms,
            )
        )
        token = self._signed(claims)
        object_ = f"agent:{grant.agent_id}" if grant.agent_type else subject
        self._audit.record(call, namespace=grant.namespace, object=object_)
        await self._commits.settled()
        return token

    async def create_join_token(
        self, call: Call, grant: Grant, lifetime_ms: int, max_uses: int
    ) -> IssuedJoinToken:
        """Return a join token for the agent. Raises Refusal GRANT_EXCEEDS_CALLER and others."""
        caller = call.principal
        check_grant(caller, grant.agent_type, grant.capabilities, ())
        if caller.scope:
            message = "a caller with a narrowed scope may not let agents join: their rights would be wider than its own"
            raise Refusal(Reason.GRANT_EXCEEDS_CALLER, message)
        self._require_namespace(grant.namespace)
        assert grant.agent_type is not None
        # The agent must be able to join with it: a line that is too long is refused now.
        child_family(caller.family, "")
        now_ms = self._wall_ms()
        value = token_urlsafe(32)
        record = JoinTokenRecord(
            _hash(value),
            grant.namespace,
            grant.agent_id,
            int(grant.agent_type),
            grant.capabilities,
            now_ms + lifetime_ms,
            max_uses,
            now_ms,
            caller.family,
        )
        self._credentials.put_join_token(record)
        self._audit.record(call, namespace=grant.namespace, object=f"agent:{grant.agent_id}")
        await self._commits.settled()
        return IssuedJoinToken(value, record.expire_ms)

    def _redeemable(self, join_token: str, grant: Grant) -> JoinTokenRecord:
        record = self._credentials.join_token(_hash(join_token))
        if (
            record is None
            or record.expire_ms <= self._wall_ms()
            or (record.namespace, record.agent_id, record.agent_type)
            != (grant.namespace, grant.agent_id, grant.agent_type)
            or (record.parent and self._credentials.revoked(record.namespace, record.parent))
        ):
            message = "the join token is unknown, used up, expired or for another agent; ask for a new one"
            raise Refusal(Reason.JOIN_TOKEN_INVALID, message, field="join_token")
        return record

    def _check_socket_join(self, call: Call, grant: Grant, public_key: bytes) -> None:
        if not call.principal.via_socket:
            message = "joining from elsewhere than the operator socket needs a join token"
            raise Refusal(Reason.JOIN_TOKEN_INVALID, message, field="join_token")
        if grant.agent_type is not AgentType.WORKER:
            message = "without a join token only workers join; create one for another type"
            raise Refusal(Reason.JOIN_TOKEN_INVALID, message, field="type")
        old = self._credentials.identity(grant.namespace, grant.agent_id)
        if old is None:
            return
        if not old.public_key or self._credentials.revoked(grant.namespace, old.family):
            message = f"agent {grant.agent_id} was revoked; it returns only by a join token"
        elif old.public_key != public_key:
            message = (
                f"agent {grant.agent_id} has joined with another key; use its state directory or a join token"
            )
        elif old.agent_type != AgentType.WORKER:
            message = f"agent {grant.agent_id} has joined as another type; renew its token instead"
        else:
            return
        raise Refusal(Reason.JOIN_TOKEN_INVALID, message, field="join_token")

    def _require_namespace(self, namespace: str) -> None:
        if namespace == SYSTEM_NAMESPACE or not self._namespace_exists(namespace):
            message = (
                f"no namespace {namespace} for agents; `meshctl namespace create {namespace}` creates one"
            )
            raise Refusal(Reason.NAMESPACE_NOT_FOUND, message, field="namespace")

    def _claims_for(self, identity: IdentityRecord, now_ms: int) -> TokenClaims:
        return self._timed(
            TokenClaims(
                f"agent:{identity.namespace}/{identity.agent_id}",
                identity.namespace,
                AgentType(identity.agent_type),
                identity.capabilities,
                (),
                token_urlsafe(16),
                identity.family,
                identity.generation,
                now_ms,
                now_ms + MAX_TOKEN_LIFETIME_MS,
            )
        )

    def _timed(self, claims: TokenClaims) -> TokenClaims:
        # Whole seconds, never longer than asked for but at least one; in the second of a restore, those of the next.
        issue_s = max(claims.issue_ms // 1_000, self._credentials.token_watermark_ms // 1_000 + 1)
        issue_ms = issue_s * 1_000
        expire_ms = max(claims.expire_ms // 1_000 * 1_000, issue_ms + 1_000)
        return claims._replace(issue_ms=issue_ms, expire_ms=expire_ms)

    def _signed(self, claims: TokenClaims, identity_expire_ms: int = 0) -> IssuedToken:
        return IssuedToken(self._tokens.sign(claims), claims.expire_ms, claims.family, identity_expire_ms)

    async def _granted(self, call: Call, token: IssuedToken, grant: Grant) -> IssuedToken:
        self._audit.record(call, namespace=grant.namespace, object=f"agent:{grant.agent_id}")
        await self._commits.settled()
        return token


def _hash(value: str) -> bytes:
    return sha256(value.encode()).digest()
