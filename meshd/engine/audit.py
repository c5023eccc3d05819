"""The audit log: one hash chain per namespace, in the same commit as the change it speaks of.

Invariant: a record is made and chained in one synchronous turn, into the commit that collects at that moment; so the
order of a chain is the order of its sequence. Refusals are counted and written by ``flush_denials``: strangers cannot
fill the disk, nor the memory. While the disk lags behind nothing is added that can wait or be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from meshd.domain.access import SYSTEM_NAMESPACE, Call
from meshd.domain.audit import FIRST_HASH, record_hash
from meshd.domain.effects import Ticket
from meshd.domain.errors import Refusal
from meshd.domain.records import AuditRecord
from meshd.engine.commits import Commits, disk_lags
from meshd.engine.credentials import system_wall_ms

DENIAL_INTERVAL_S: Final = 10.0
READ_INTERVAL_S: Final = 1.0
"""The same while the log is read: who reads it often must not undo the counting."""
MAX_PENDING_DENIALS: Final = 1_000
"""Different refusals counted apart within one interval; those beyond are counted together."""

MAX_NAMED: Final = 63
"""Characters of a namespace that was named; none that exists has more."""

_OTHERS: Final = (SYSTEM_NAMESPACE, "many", "many", "many", "many", "")


def refused_in(replies: Iterable[tuple[Ticket, Any]]) -> dict[Ticket, str]:
    """Return the reasons of refusals by the tickets of their commands; of a batch, when all of it was refused."""
    reasons: dict[Ticket, str] = {}
    for ticket, reply in replies:
        first = reply[0] if type(reply) is list and reply else reply
        if isinstance(first, Refusal) and (
            reply is first or all(isinstance(part, Refusal) for part in reply)
        ):
            reasons[ticket] = first.reason.name
    return reasons


class AuditLog:
    """Appends to the audit chains."""

    def __init__(
        self,
        commits: Commits,
        heads: Mapping[str, tuple[int, bytes]],
        wall_ms: Callable[[], int] = system_wall_ms,
    ) -> None:
        self._commits = commits
        self._heads = dict(heads)
        self._wall_ms = wall_ms
        self._denials: dict[tuple[str, str, str, str, str, str], int] = {}
        self._flush_mono = 0.0

    def admit(self) -> None:
        """Refuse a call that would leave a record, while the disk lags behind. Raises Refusal."""
        if self._commits.lags:
            raise disk_lags()

    def record(
        self,
        call: Call,
        *,
        namespace: str,
        object: str = "",
        count: int = 1,
        object_digest: bytes = b"",
        words: str = "",
    ) -> None:
        """Append an allowed record of the call to the namespace's chain (empty: the mesh's own).

        Call it in the same turn as the change. ``words`` are those the caller gave as a reason, or the reason for which
        what it asked was refused though it may ask it.
        """
        self._append(
            namespace=namespace or SYSTEM_NAMESPACE,
            subject=call.principal.subject,
            peer=call.peer,
            method=call.method,
            object=object,
            allowed=True,
            reason=words,
            count=count,
            object_digest=object_digest,
        )
        call.audited = True

    def deny(self, call: Call, reason: str) -> None:
        """Count a refusal; it is recorded by the next ``flush_denials``, in the caller's own chain.

        The namespace it concerned is told for operators, who span all: what others name would make as many records as they
        like.
        """
        principal = call.principal
        concerned = call.namespace[:MAX_NAMED] if principal.kind == "operator" else ""
        object_ = f"namespace:{concerned}" if concerned else ""
        key = (
            principal.namespace or SYSTEM_NAMESPACE,
            principal.subject,
            call.peer,
            call.method,
            reason,
            object_,
        )
        if key not in self._denials and len(self._denials) >= MAX_PENDING_DENIALS:
            key = _OTHERS
        self._denials[key] = self._denials.get(key, 0) + 1

    def flush_denials(self, mono: float, interval_s: float = DENIAL_INTERVAL_S) -> None:
        """Append what was refused, at most once per interval; call it from a timer, and without interval at the end.

        ``mono`` is the monotonic time. The caller sees to the commit.
        """
        if not self._denials or mono - self._flush_mono < interval_s:
            return
        self._flush_mono = mono
        denials, self._denials = self._denials, {}
        for (namespace, subject, peer, method, reason, object_), count in denials.items():
            self._append(
                namespace=namespace,
                subject=subject,
                peer=peer,
                method=method,
                object=object_,
                allowed=False,
                reason=reason,
                count=count,
                object_digest=b"",
            )

    def head(self, namespace: str) -> tuple[int, bytes]:
        """Return (sequence, hash) of the newest record of a chain; (0, zeros) before the first."""
        return self._heads.get(namespace, (0, FIRST_HASH))

    def _append(
        self,
        *,
        namespace: str,
        subject: str,
        peer: str,
        method: str,
        object: str,
        allowed: bool,
        reason: str,
        count: int,
        object_digest: bytes,
    ) -> None:
        sequence, previous_hash = self.head(namespace)
        record = AuditRecord(
            namespace,
            sequence + 1,
            self._wall_ms(),
            subject,
            peer,
            method,
            object,
            allowed,
            reason,
            count,
            object_digest,
            previous_hash,
            b"",
        )
        record = record._replace(hash=record_hash(record))
        self._heads[namespace] = (record.sequence, record.hash)
        self._commits.writes.audit.append(record)
