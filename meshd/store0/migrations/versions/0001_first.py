"""The first schema."""

from __future__ import annotations

from alembic import op

from meshd.store0.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table. When a second migration comes, this one gets its own copy of the tables as they were."""
    metadata.create_all(op.get_bind())
