"""Brings an older database to the current revision with Alembic.

Rule: whoever calls has copied the database aside; then all migrations run in one transaction: all or nothing.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

MIGRATIONS = Path(__file__).with_name("migrations")


def upgrade(path: Path, revision: str = "head") -> None:
    """Run the migrations that the database lacks, up to a revision. Raises sqlite3.Error."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    # As text, what follows a ? in the path would be options, and a % would begin an escape.
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool, connect_args={"isolation_level": None})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA synchronous=FULL")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        raise error.orig or error from error
    finally:
        engine.dispose()
