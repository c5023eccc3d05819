"""Migrations by Alembic on the writer's own connection, in one explicit transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def is_known(revision: str) -> bool:
    """Return whether this meshd has the migration by that name."""
    return any(script.revision == revision for script in _scripts().walk_revisions())


def upgrade(writer: sqlite3.Connection) -> None:
    """Bring the database to the newest schema: all of it, or nothing."""
    engine = create_engine("sqlite://", creator=lambda: writer, poolclass=StaticPool, pool_reset_on_return="rollback")
    scripts = _scripts()

    def steps(revision: tuple[str, ...], _context: MigrationContext) -> object:
        return scripts._upgrade_revs("head", revision)  # type: ignore[arg-type]  # noqa: SLF001  # as Alembic's own env template does

    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        context = MigrationContext.configure(connection, opts={"fn": steps, "script": scripts})
        with Operations.context(context):
            context.run_migrations()
        connection.commit()
