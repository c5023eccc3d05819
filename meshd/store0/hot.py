"""Statements that run for every commit: compiled from the schema once, then run by the driver with plain tuples.

Why not SQLAlchemy's own execution: it cost 9 µs a task of a budget of 45.
"""

from __future__ import annotations

from sqlalchemy import Table, bindparam, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from meshd.store0 import schema


def _insert(table: Table, *, replace: bool = False, leave_out: tuple[str, ...] = ()) -> str:
    columns = [c for c in table.columns if c.name not in leave_out]
    statement = insert(table).values({c.name: bindparam(c.name) for c in columns})
    if replace:
        keys = [c for c in table.primary_key.columns]
        statement = statement.on_conflict_do_update(
            index_elements=keys,
            set_={c.name: statement.excluded[c.name] for c in columns if not c.primary_key},
        )
    return _positional(str(statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))))


def _positional(statement: str) -> str:
    return statement.replace("\n", " ")


_STATE_FROM = [c.name for c in schema.tasks.columns].index("state")
_CHANGING = [c for c in schema.tasks.columns][_STATE_FROM:]

INSERT_TASK = _insert(schema.tasks)
UPDATE_TASK = _positional(
    str(
        update(schema.tasks)
        .where(schema.tasks.c.key == bindparam("b_key"))
        .values({c.name: bindparam(c.name) for c in _CHANGING})
        .compile(dialect=sqlite.dialect(paramstyle="qmark"))
    )
)
"""Takes the changing columns in the schema's order, then the key."""
INSERT_PAYLOAD = _insert(schema.payloads)
INSERT_OUTPUT = _insert(schema.outputs)
INSERT_ATTEMPT = _insert(schema.attempts)
INSERT_AUDIT = _insert(schema.audit, leave_out=("row",))
UPSERT_AGENT = _insert(schema.agents, replace=True)
UPSERT_NAMESPACE = _insert(schema.namespaces, replace=True)
UPSERT_JOIN_TOKEN = _insert(schema.join_tokens, replace=True)
UPSERT_IDENTITY = _insert(schema.identities, replace=True)
UPSERT_REVOCATION = _insert(schema.revocations, replace=True)
UPSERT_SIGNING_KEY = _insert(schema.signing_keys, replace=True)
