"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "namespaces",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("description", sa.String, nullable=False),
        sa.Column("create_ms", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_namespaces"),
    )
    op.create_table(
        "agents",
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("type", sa.SmallInteger, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("capabilities_json", sa.String, nullable=False),
        sa.Column("labels_json", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("dns_name", sa.String, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("lease_ttl_ms", sa.BigInteger, nullable=False),
        sa.Column("disconnected_grace_ms", sa.BigInteger, nullable=False),
        sa.Column("create_ms", sa.BigInteger, nullable=False),
        sa.Column("health", sa.SmallInteger, nullable=False),
        sa.Column("health_ms", sa.BigInteger, nullable=False),
        sa.Column("health_cause", sa.String, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger, nullable=False),
        sa.Column("succeeded", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.BigInteger, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("resume_hash", sa.LargeBinary, nullable=False),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("session_slots", sa.Integer, nullable=False),
        sa.Column("session_start_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "agent_id", name="pk_agents"),
    )
    op.create_table(
        "tasks",
        sa.Column("key", Key, nullable=False, autoincrement=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.SmallInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("cancel_ms", sa.BigInteger, nullable=False),
        sa.Column("cancel_grace_ms", sa.BigInteger, nullable=False),
        sa.Column("cancel_cause", sa.SmallInteger, nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger, nullable=False),
        sa.Column("failure_json", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempt_state", sa.SmallInteger, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("fence_number", sa.BigInteger, nullable=False),
        sa.Column("assign_ms", sa.BigInteger, nullable=False),
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("task_type", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("incarnation", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("submit_ms", sa.BigInteger, nullable=False),
        sa.Column("submitter", sa.String, nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("deadline_ms", sa.BigInteger, nullable=False),
        sa.Column("queue_deadline_ms", sa.BigInteger, nullable=False),
        sa.Column("traceparent", sa.String, nullable=False),
        sa.Column("options_json", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_tasks"),
        sa.UniqueConstraint("task_id", "namespace", name="uq_tasks_task_id_namespace"),
    )
    op.create_table(
        "payloads",
        sa.Column("task_key", Key, nullable=False, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("task_key", name="pk_payloads"),
    )
    op.create_table(
        "outputs",
        sa.Column("task_key", Key, nullable=False, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("task_key", name="pk_outputs"),
    )
    op.create_table(
        "attempts",
        sa.Column("task_key", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("fence_number", sa.BigInteger, nullable=False),
        sa.Column("assign_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("failure_json", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("task_key", "number", name="pk_attempts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "join_tokens",
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("agent_type", sa.SmallInteger, nullable=False),
        sa.Column("capabilities_json", sa.String, nullable=False),
        sa.Column("expire_ms", sa.BigInteger, nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("create_ms", sa.BigInteger, nullable=False),
        sa.Column("parent", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_join_tokens"),
    )
    op.create_table(
        "identities",
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("agent_id", sa.String, nullable=False),
        sa.Column("agent_type", sa.SmallInteger, nullable=False),
        sa.Column("capabilities_json", sa.String, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("family", sa.String, nullable=False),
        sa.Column("expire_ms", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "agent_id", name="pk_identities"),
    )
    op.create_table(
        "revocations",
        sa.Column("family", sa.String, nullable=False),
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("revoke_ms", sa.BigInteger, nullable=False),
        sa.Column("keep_until_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("family", "namespace", name="pk_revocations"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("create_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_signing_keys"),
    )
    op.create_table(
        "audit",
        sa.Column("id", Key, nullable=False),
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("peer", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("object", sa.String, nullable=False),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("object_digest", sa.LargeBinary, nullable=False),
        sa.Column("previous_hash", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sa.UniqueConstraint("namespace", "sequence", name="uq_audit_namespace_sequence"),
    )
    is_open = sa.text("state < 5")
    has_ended = sa.text("state >= 5")
    op.create_index("ix_tasks_namespace_key", "tasks", ["namespace", "key"])
    op.create_index("ix_tasks_open", "tasks", ["key"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_tasks_ended", "tasks", ["end_ms"], sqlite_where=has_ended, postgresql_where=has_ended)
