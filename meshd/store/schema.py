"""The one schema, in SQLAlchemy Core; ``migrations/`` leads every older database to it.

Rule: only types and indices that SQLite and PostgreSQL share. No column is NULL: a missing text is "", a missing
number 0 (binding NULL costs the driver four times as much as binding ""). Columns ending in ``_json`` hold a JSON
document, or "" for the default. Enums are stored as their numbers in the contract.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    literal_column,
)

from meshd.domain.values import FIRST_TERMINAL

REVISIONS = ("0001", "0002", "0003")
"""Every revision there has been, oldest first; the last is what this code reads and writes."""

Key = BigInteger().with_variant(Integer, "sqlite")
"""A key made of one number: SQLite makes it the row's own address only when it is called INTEGER."""

metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
)

namespaces = Table(
    "namespaces",
    metadata,
    Column("name", String, primary_key=True),
    Column("description", String, nullable=False),
    Column("create_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
)

# An agent and its session that has not ended; without one the session's columns are empty.
agents = Table(
    "agents",
    metadata,
    Column("namespace", String, primary_key=True),
    Column("agent_id", String, primary_key=True),
    Column("type", SmallInteger, nullable=False),
    Column("name", String, nullable=False),
    Column("capabilities_json", String, nullable=False),
    Column("labels_json", String, nullable=False),
    Column("host", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("dns_name", String, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("lease_ttl_ms", BigInteger, nullable=False),
    Column("disconnected_grace_ms", BigInteger, nullable=False),
    Column("create_ms", BigInteger, nullable=False),
    Column("health", SmallInteger, nullable=False),
    Column("health_ms", BigInteger, nullable=False),
    Column("health_cause", String, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("session_id", String, nullable=False),
    Column("resume_hash", LargeBinary, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("session_slots", Integer, nullable=False),
    Column("session_start_ms", BigInteger, nullable=False),
)

# First the key, then what changes in a task's life, then what never does.
tasks = Table(
    "tasks",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("cancel_ms", BigInteger, nullable=False),
    Column("cancel_grace_ms", BigInteger, nullable=False),
    Column("cancel_cause", SmallInteger, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("failure_json", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("attempt_state", SmallInteger, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("fence_number", BigInteger, nullable=False),
    Column("assign_ms", BigInteger, nullable=False),
    Column("namespace", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("task_type", String, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    # The unsigned number, brought into the signed range: databases have no other.
    Column("incarnation", BigInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("submit_ms", BigInteger, nullable=False),
    Column("submitter", String, nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("queue_deadline_ms", BigInteger, nullable=False),
    Column("traceparent", String, nullable=False),
    Column("options_json", String, nullable=False),
    # In this order a list of one namespace cannot be misled into reading this index and sorting.
    UniqueConstraint("task_id", "namespace"),
)


def is_open() -> ColumnElement[bool]:
    """Return the condition of tasks that have not ended; literally that of the index, or it goes unused."""
    return tasks.c.state < literal_column(str(int(FIRST_TERMINAL)))


def has_ended() -> ColumnElement[bool]:
    """Return the condition of tasks that have ended."""
    return tasks.c.state >= literal_column(str(int(FIRST_TERMINAL)))


Index("ix_tasks_namespace_key", tasks.c.namespace, tasks.c.key)
Index("ix_tasks_open", tasks.c.key, sqlite_where=is_open(), postgresql_where=is_open())
Index("ix_tasks_ended", tasks.c.end_ms, sqlite_where=has_ended(), postgresql_where=has_ended())

# Apart from the tasks, so that a task's row stays small and is rewritten without its bodies.
payloads = Table(
    "payloads",
    metadata,
    Column("task_key", Key, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
outputs = Table(
    "outputs",
    metadata,
    Column("task_key", Key, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

# Only attempts that are over; the one that counts is part of its task.
attempts = Table(
    "attempts",
    metadata,
    Column("task_key", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("agent_id", String, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("fence_number", BigInteger, nullable=False),
    Column("assign_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("failure_json", String, nullable=False),
    sqlite_with_rowid=False,
)

# Lifted ones stay for a while: a drain that comes back replaces its row.
drains = Table(
    "drains",
    metadata,
    Column("namespace", String, primary_key=True),
    Column("drain_id", String, primary_key=True),
    Column("pattern", String, nullable=False),
    Column("labels_json", String, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("creator", String, nullable=False),
    Column("create_ms", BigInteger, nullable=False),
    Column("lift_ms", BigInteger, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("namespace", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("agent_type", SmallInteger, nullable=False),
    Column("capabilities_json", String, nullable=False),
    Column("expire_ms", BigInteger, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("create_ms", BigInteger, nullable=False),
    Column("parent", String, nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("namespace", String, primary_key=True),
    Column("agent_id", String, primary_key=True),
    Column("agent_type", SmallInteger, nullable=False),
    Column("capabilities_json", String, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("family", String, nullable=False),
    Column("expire_ms", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("family", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("revoke_ms", BigInteger, nullable=False),
    Column("keep_until_ms", BigInteger, nullable=False),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("create_ms", BigInteger, nullable=False),
)

# One for each time the mesh was restored from a backup; the highest counts.
token_watermarks = Table(
    "token_watermarks",
    metadata,
    Column("watermark_ms", BigInteger, primary_key=True, autoincrement=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Key, primary_key=True),
    Column("namespace", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("subject", String, nullable=False),
    Column("peer", String, nullable=False),
    Column("method", String, nullable=False),
    Column("object", String, nullable=False),
    Column("allowed", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("object_digest", LargeBinary, nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # A chain cannot fork.
    UniqueConstraint("namespace", "sequence"),
)
