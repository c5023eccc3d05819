"""What one commit writes: the statements, and the batch of rows made from ``Writes``.

Rule: ``snapshot`` copies everything that may change later; the batch is then free of tasks and agents, and another
thread may write it while the domain goes on.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from meshd.domain.records import Writes
from meshd.store import rows, schema
from meshd.store.compiled import Bulk, Row, change, insert, upsert

INSERT_TASKS = insert(schema.tasks)
CHANGE_TASKS = change(schema.tasks, list(schema.tasks.c)[1 : 1 + rows.CHANGING_COLUMNS])
INSERT_PAYLOADS = insert(schema.payloads)
INSERT_OUTPUTS = insert(schema.outputs)
INSERT_ATTEMPTS = insert(schema.attempts)
INSERT_AUDIT = insert(schema.audit, without=[schema.audit.c.id])
PUT_AGENTS = upsert(schema.agents)
PUT_NAMESPACES = upsert(schema.namespaces)
PUT_DRAINS = upsert(schema.drains)
PUT_JOIN_TOKENS = upsert(schema.join_tokens)
PUT_IDENTITIES = upsert(schema.identities)
PUT_REVOCATIONS = upsert(schema.revocations)
PUT_SIGNING_KEYS = upsert(schema.signing_keys)

Batch = list[tuple[Bulk, list[Row]]]
"""Statements of one transaction in order, each with its rows."""


def snapshot(writes: Writes) -> Batch:
    """Copy what one commit makes durable into rows. Runs on the event loop."""
    batch: Batch = []
    if writes.new_tasks:
        new = writes.new_tasks.values()
        batch.append((INSERT_TASKS, list(map(rows.task_to_row, new))))
        batch.append((INSERT_PAYLOADS, [(task.key, task.spec.payload) for task in new if task.spec.payload]))
    if writes.changed_tasks:
        batch.append((CHANGE_TASKS, list(map(rows.task_changes, writes.changed_tasks.values()))))
    if writes.outputs:
        batch.append((INSERT_OUTPUTS, list(writes.outputs)))
    if writes.attempts:
        batch.append((INSERT_ATTEMPTS, list(map(rows.attempt_to_row, writes.attempts))))
    if writes.audit:
        batch.append((INSERT_AUDIT, list(writes.audit)))
    batch += [(statement, made) for statement, made in _seldom(writes) if made]
    return batch


def _seldom(writes: Writes) -> list[tuple[Bulk, list[Any]]]:
    # A row may be replaced once in a statement on PostgreSQL: the last of equal keys stands.
    namespaces = {each.name: each for each in writes.namespaces}
    revocations = {(each.family, each.namespace): each for each in writes.revocations}
    signing_keys = {each.key_id: each for each in writes.signing_keys}
    return [
        (PUT_NAMESPACES, list(namespaces.values())),
        (PUT_AGENTS, list(map(rows.agent_to_row, writes.agents.values()))),
        (PUT_DRAINS, list(map(rows.drain_to_row, writes.drains.values()))),
        (PUT_JOIN_TOKENS, list(map(rows.join_token_to_row, writes.join_tokens.values()))),
        (PUT_IDENTITIES, list(map(rows.identity_to_row, writes.identities.values()))),
        (PUT_REVOCATIONS, list(revocations.values())),
        (PUT_SIGNING_KEYS, list(signing_keys.values())),
    ]


def write(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write a batch within the open transaction. Raises sqlite3.Error."""
    cursor = connection.cursor()
    for statement, made in batch:
        statement.run(cursor, made)
    cursor.close()
