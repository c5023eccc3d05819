"""Brings an older database to the current revision with Alembic.

Rule: the database is copied aside first, then every migration runs in one transaction: all or nothing.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import DBAPIError

MIGRATIONS = Path(__file__).with_name("migrations")


def copy_aside(path: Path, copy: Path) -> None:
    """Write a durable, whole copy, readable by its owner only. Raises sqlite3.Error or OSError."""
    unfinished = copy.with_name(copy.name + ".part")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    source = sqlite3.connect(path)
    target = sqlite3.connect(unfinished)
    try:
        source.backup(target)
    finally:
        target.close()
        source.close()
        os.fsync(handle)
        os.close(handle)
    unfinished.replace(copy)


def upgrade(path: Path, revision: str = "head") -> None:
    """Run the migrations that the database lacks, up to a revision. Raises sqlite3.Error."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"isolation_level": None})
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
