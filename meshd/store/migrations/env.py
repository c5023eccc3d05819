"""Run by Alembic for every command: uses the connection, and the transaction, that ``migrate`` has opened."""

from __future__ import annotations

from alembic import context

from meshd.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    # SQLite cannot alter most things in place: tables are then rebuilt.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
