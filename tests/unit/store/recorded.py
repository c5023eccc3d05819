"""The database of the first revision, recorded: later schemas do not change what old meshds have left behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("revision_0001.sql")


def lay_down(database: Path) -> None:
    """Write the recorded database."""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(RECORDED.read_text())
        connection.execute("PRAGMA journal_mode=WAL")


def missing_rows(database: Path) -> list[str]:
    """Return what the recorded database held, column by column, and this one does not hold any more."""
    missing = []
    with closing(sqlite3.connect(":memory:")) as old, closing(sqlite3.connect(database)) as new:
        old.executescript(RECORDED.read_text())
        tables = old.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table == "alembic_version":
                continue
            columns = [column for _, column, *_ in old.execute(f"PRAGMA table_info({table})")]
            # A start raises the epochs: that is its own doing.
            wanted = ", ".join(f'"{column}"' for column in columns if column != "epoch")
            query = f"SELECT {wanted} FROM {table}"
            kept: set[tuple[Any, ...]] = set(new.execute(query))
            recorded = old.execute(query).fetchall()
            assert recorded, f"nothing is recorded of {table}"
            missing += [f"{table}: {row}" for row in recorded if row not in kept]
    return missing
