"""The time up to which a restored backup refuses every token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table; a database that was never restored has no row in it."""
    op.create_table(
        "token_watermarks",
        sa.Column("watermark_ms", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("watermark_ms", name="pk_token_watermarks"),
    )
