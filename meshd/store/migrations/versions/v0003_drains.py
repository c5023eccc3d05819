"""Drains of agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "drains",
        sa.Column("namespace", sa.String, nullable=False),
        sa.Column("drain_id", sa.String, nullable=False),
        sa.Column("pattern", sa.String, nullable=False),
        sa.Column("labels_json", sa.String, nullable=False),
        sa.Column("type", sa.SmallInteger, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("creator", sa.String, nullable=False),
        sa.Column("create_ms", sa.BigInteger, nullable=False),
        sa.Column("lift_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "drain_id", name="pk_drains"),
    )
