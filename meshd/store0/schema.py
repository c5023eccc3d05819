"""Temporary schema."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text

REVISION = "0001"
metadata = MetaData()
Key = BigInteger().with_variant(Integer, "sqlite")
_T = {"t": Text, "b": BigInteger, "i": Integer, "l": LargeBinary, "k": Key, "o": Boolean}


def _table(name: str, spec: str, *extra: object, **kw: object) -> Table:
    columns = []
    for word in spec.split():
        column, _, kind = word.partition(":")
        primary = "!" in kind
        nullable = "?" in kind
        columns.append(Column(column, _T[kind[0]], primary_key=primary, nullable=nullable and not primary))
    return Table(name, metadata, *columns, *extra, **kw)  # type: ignore[arg-type]


namespaces = _table("namespaces", "name:t! description:t create_ms:b epoch:b")
agents = _table(
    "agents",
    "namespace:t! agent_id:t! spec:t create_ms:b health:i health_ms:b health_cause:t last_seen_ms:b "
    "session_id:t? resume_hash:l? key_hash:l? slots:i? session_start_ms:b?",
)
tasks = _table(
    "tasks",
    "key:k! namespace:t task_id:t task_type:t digest:l priority:i options:t? incarnation:b submit_ms:b submitter:t "
    "payload_bytes:i deadline_ms:b queue_deadline_ms:b state:i generation:i outcome:i end_ms:b failures:i losses:i "
    "cancel_ms:b cancel_grace_ms:b cancel_cause:i next_attempt_ms:b failure:t? attempt:i attempt_state:i agent_id:t "
    "session_id:t fence_number:b assign_ms:b",
    Index("tasks_by_id", "namespace", "task_id", unique=True),
    Index("tasks_open", "key", sqlite_where=text("state < 5")),
    Index("tasks_ended", "end_ms", sqlite_where=text("state >= 5")),
)
payloads = _table("payloads", "task_key:k! body:l")
outputs = _table("outputs", "task_key:k! body:l")
attempts = _table(
    "attempts", "task_key:b! number:i! agent_id:t state:i fence_number:b assign_ms:b end_ms:b failure:t?"
)
join_tokens = _table(
    "join_tokens",
    "token_hash:l! namespace:t agent_id:t agent_type:i capabilities:t expire_ms:b uses_left:i create_ms:b parent:t",
)
identities = _table(
    "identities",
    "namespace:t! agent_id:t! agent_type:i capabilities:t public_key:l family:t expire_ms:b generation:i",
)
revocations = _table("revocations", "family:t! namespace:t revoke_ms:b keep_until_ms:b")
signing_keys = _table("signing_keys", "key_id:t! public_key:l create_ms:b")
audit = _table(
    "audit",
    "row:k! namespace:t sequence:b time_ms:b subject:t peer:t method:t object:t allowed:o reason:t count:b "
    "object_digest:l previous_hash:l hash:l",
    Index("audit_by_chain", "namespace", "sequence", unique=True),
)
