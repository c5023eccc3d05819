"""Makes a backup the present: what was under way when it was made is ended, what was handed out since is void.

Rule: nothing that lost its right since the backup gets it back, as far as the replaced database still tells. Tokens
and fences are made void by the store (``commit_restored``); here are the changes that need the rules of the domain.
"""

from __future__ import annotations

from random import Random
from secrets import randbelow
from typing import Final

from meshd.domain.access import SYSTEM_NAMESPACE
from meshd.domain.audit import FIRST_HASH, record_hash
from meshd.domain.effects import Effects
from meshd.domain.handlers.session import forget
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.records import AuditRecord, IdentityRecord, Writes
from meshd.domain.state import Counter
from meshd.domain.values import Now
from meshd.engine.restore import build
from meshd.ports.store import Predecessor, Restored

EPOCH_JUMP: Final = 4_096
"""More than a mesh restarts between a backup and its loss: epochs and fence numbers never come twice. Up to as many
again are added at random, so that two restores of one backup differ."""


def recover(
    restored: Restored, predecessor: Predecessor, subject: str, backup_digest: bytes, now: Now
) -> Writes:
    """Return what makes the loaded backup the present. ``subject`` is who restores it, for the audit chains."""
    out = Effects()
    rules = SessionRules()
    rng = Random()  # noqa: S311 - only spreads the pauses before retries
    namespaces = build(restored, rules, Fleet(rules), Counter(restored.next_key), rng, now)
    for ns in namespaces.values():
        for session in list(ns.sessions.values()):
            forget(ns, session, now, out)
    writes = out.writes
    # One for all: a namespace made later begins with that of _mesh, and its name may have been used before.
    seen = max([*(info.epoch for info in restored.namespaces), *predecessor.epochs.values()])
    epoch = seen + EPOCH_JUMP + randbelow(EPOCH_JUMP)
    writes.namespaces = [info._replace(epoch=epoch) for info in restored.namespaces]
    for join_token in restored.join_tokens:
        writes.join_tokens[join_token.token_hash] = join_token._replace(uses_left=0)
    writes.identities = _identities(restored, predecessor)
    writes.revocations = list(predecessor.revocations)
    for name in namespaces.keys() | {SYSTEM_NAMESPACE}:
        head = restored.audit_heads.get(name, (0, FIRST_HASH))
        writes.audit.append(_audit_record(name, head, subject, backup_digest, now.wall_ms))
    return writes


def _identities(restored: Restored, predecessor: Predecessor) -> dict[tuple[str, str], IdentityRecord]:
    """Return the identities that the replaced database knows better: those changed, and those revoked, since."""
    known = {(each.namespace, each.agent_id): each for each in restored.identities}
    found: dict[tuple[str, str], IdentityRecord] = {}
    for identity in predecessor.identities:
        key = identity.namespace, identity.agent_id
        # A key that joined only since the backup is not taken over: its agent joins again. A lost one stays lost.
        newer = identity.generation >= known[key].generation if key in known else not identity.public_key
        if newer:
            found[key] = identity
    return found


def _audit_record(
    namespace: str, head: tuple[int, bytes], subject: str, backup_digest: bytes, now_ms: int
) -> AuditRecord:
    sequence, previous_hash = head
    record = AuditRecord(
        namespace=namespace,
        sequence=sequence + 1,
        time_ms=now_ms,
        subject=subject,
        peer="local",
        method="meshd restore",
        object="backup",
        allowed=True,
        reason="restored from a backup; everything since is undone, all tokens and fences before are void",
        count=1,
        object_digest=backup_digest,
        previous_hash=previous_hash,
        hash=b"",
    )
    return record._replace(hash=record_hash(record))
