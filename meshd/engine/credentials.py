"""Join tokens, identities and revocations: in memory and in the commit that collects, always together."""

from __future__ import annotations

import time
from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final

from meshd.domain.access import SYSTEM_NAMESPACE, Principal
from meshd.domain.grants import family_prefixes, holder, is_operator_family
from meshd.domain.records import IdentityRecord, JoinTokenRecord, RevocationRecord, SigningKeyRecord
from meshd.engine.commits import Commits
from meshd.ports.store import Restored
from meshd.ports.tokens import TokenClaims

DAY_MS: Final = 24 * 3_600_000
"""Longest life of a join token and of a token."""


class Credentials:
    """What the authority knows durably. Every change is synchronous; the caller settles the commit."""

    def __init__(self, restored: Restored, commits: Commits, now_ms: int, identity_ttl_ms: int) -> None:
        self._commits = commits
        self.identity_ttl_ms = identity_ttl_ms
        """How long an agent's key renews tokens after its last use."""
        self._join_tokens: dict[bytes, JoinTokenRecord] = {}
        self._join_token_ends: list[tuple[float, bytes]] = []
        """A heap of the monotonic times until which each is kept; some are used up before."""
        for token in restored.join_tokens:
            if token.uses_left > 0 and token.expire_ms > now_ms:
                self._keep_join_token(token, token.expire_ms - now_ms)
        self._identities = {(record.namespace, record.agent_id): record for record in restored.identities}
        self._restored_families = {(record.namespace, record.family) for record in restored.revocations}
        """Revoked before this start. Kept until the next: a clock that was wrong at the start revives nothing."""
        self._revoked_families: OrderedDict[tuple[str, str], float] = OrderedDict()
        """With the monotonic time until which each is kept: a jump of the clock revives nothing. The earliest first, but
        for those kept longer because of a key; what stands behind one of them waits for it."""
        self.token_watermark_ms = restored.token_watermark_ms
        """Tokens issued up to then are refused; every token issued since bears a later time."""
        self._signing_keys = {record.key_id: record for record in restored.signing_keys}

    def signing_key(self, key: SigningKeyRecord) -> SigningKeyRecord:
        """Return the key as first recorded; a new one is recorded now."""
        known = self._signing_keys.get(key.key_id)
        if known is None:
            known = self._signing_keys[key.key_id] = key
            self._commits.writes.signing_keys.append(key)
        return known

    def revoked(self, namespace: str, family: str) -> bool:
        """True when the family, one it descends from, or a holder in its line of descent was revoked."""
        for prefix in family_prefixes(family):
            # An operator is revoked for all namespaces, if at all.
            where = SYSTEM_NAMESPACE if is_operator_family(prefix) else namespace
            found = holder(prefix)
            family_key = where, prefix
            if family_key in self._revoked_families or family_key in self._restored_families:
                return True
            if found is not None and found[1] < self.generation(where, found[0]):
                return True
        return False

    def generation(self, namespace: str, agent_id: str) -> int:
        """Return the generation in force; credentials of a lower one are revoked. Operators live in ``_mesh``."""
        identity = self._identities.get((namespace, agent_id))
        return identity.generation if identity else 0

    def identity(self, namespace: str, agent_id: str) -> IdentityRecord | None:
        """Return an agent's identity."""
        return self._identities.get((namespace, agent_id))

    def put_identity(self, identity: IdentityRecord) -> None:
        """Add or replace an agent's identity."""
        key = (identity.namespace, identity.agent_id)
        self._identities[key] = identity
        self._commits.writes.identities[key] = identity

    def join_token(self, token_hash: bytes) -> JoinTokenRecord | None:
        """Return a join token, which has uses left."""
        return self._join_tokens.get(token_hash)

    def put_join_token(self, record: JoinTokenRecord) -> None:
        """Add or replace a join token; one without uses left is forgotten here and kept as a row."""
        if record.uses_left <= 0:
            self._join_tokens.pop(record.token_hash, None)
        elif record.token_hash in self._join_tokens:
            self._join_tokens[record.token_hash] = record
        else:
            self._keep_join_token(record, record.expire_ms - record.create_ms)
        self._commits.writes.join_tokens[record.token_hash] = record

    def _keep_join_token(self, record: JoinTokenRecord, keep_ms: int) -> None:
        """Remember a join token for so long, and forget those whose time is over."""
        ends, now_mono = self._join_token_ends, time.monotonic()
        self._join_tokens[record.token_hash] = record
        heappush(ends, (now_mono + keep_ms / 1000, record.token_hash))
        while ends[0][0] <= now_mono:
            self._join_tokens.pop(heappop(ends)[1], None)

    def revoke_family(self, namespace: str, family: str, now_ms: int) -> None:
        """Revoke a family and what descends from it; remembered until nothing of it can be valid any more."""
        # Keys were given their time by the setting, and the clock, of then; none of them may outlive this.
        keys_ms = [
            identity.expire_ms - now_ms
            for identity in self._identities.values()
            if f"{identity.family}/".startswith(f"{family}/")
        ]
        keep_ms = max([self.identity_ttl_ms, *keys_ms]) + DAY_MS
        self._commits.writes.revocations.append(RevocationRecord(family, namespace, now_ms, now_ms + keep_ms))
        families, now_mono = self._revoked_families, time.monotonic()
        families[namespace, family] = now_mono + keep_ms / 1000
        families.move_to_end((namespace, family))
        while next(iter(families.values())) <= now_mono:
            families.popitem(last=False)

    def revoke_agent(self, namespace: str, agent_id: str) -> None:
        """Revoke all tokens of an agent, its key, and the join tokens that wait for it; in ``_mesh``, of an operator."""
        old = self._identities.get((namespace, agent_id))
        if old is None:
            identity = IdentityRecord(namespace, agent_id, 0, (), b"", "", 0, 1)
        else:
            identity = old._replace(public_key=b"", family="", expire_ms=0, generation=old.generation + 1)
        self.put_identity(identity)
        self.void_join_tokens(namespace, agent_id)

    def void_join_tokens(self, namespace: str, agent_id: str) -> None:
        """Take back the join tokens that wait for an agent, or have uses left."""
        for record in list(self._join_tokens.values()):
            if (record.namespace, record.agent_id) == (namespace, agent_id):
                self.put_join_token(record._replace(uses_left=0))


def principal_of(claims: TokenClaims) -> Principal:
    """Return who holds a token that says this."""
    return Principal(
        kind="operator" if claims.agent_type is None else "agent",
        subject=claims.subject,
        namespace=claims.namespace,
        agent_id=claims.subject.rpartition("/")[2] if claims.namespace else "",
        agent_type=claims.agent_type,
        capabilities=frozenset(claims.capabilities),
        scope=claims.scope,
        family=claims.family,
        generation=claims.generation,
        issue_ms=claims.issue_ms,
        expire_ms=claims.expire_ms,
    )


def system_wall_ms() -> int:
    """Return the system's wall-clock time."""
    return time.time_ns() // 1_000_000
