"""Reads find what was asked for, in order, by an index, and nothing of another namespace."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from meshd.domain.records import AuditRecord
from meshd.domain.values import AttemptState, EndedAttempt, Failure, TaskState
from meshd.ports.store import AuditFilter, TaskFilter
from meshd.store import reads
from meshd.store.compiled import compile_sql
from meshd.store.schema import tasks
from meshd.store.sqlite import SqliteStore
from tests.unit.store.samples import a_task, audit_records, commit

OPEN = (TaskState.WAITING, TaskState.QUEUED, TaskState.ASSIGNED, TaskState.RUNNING)


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    """Ten tasks in turn of two namespaces, three agents; the odd ones have failed."""
    commit(
        store,
        *(
            a_task(
                key,
                namespace="default" if key <= 6 else "team",
                task_type="build" if key % 5 == 0 else "work",
                state=TaskState.FAILED if key % 2 else TaskState.QUEUED,
                agent_id=f"a{key % 3}",
            )
            for key in range(1, 11)
        ),
    )
    return store


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        (TaskFilter(("default",)), [6, 5, 4, 3, 2, 1]),
        (TaskFilter(("team", "default"), limit=3), [10, 9, 8]),
        (TaskFilter(("team", "default"), limit=3, before_key=8), [7, 6, 5]),
        (TaskFilter(("default",), limit=2, before_key=4), [3, 2]),
        (TaskFilter(("default",), states=(TaskState.FAILED,)), [5, 3, 1]),
        (TaskFilter(("team",), states=OPEN), [10, 8]),
        (
            TaskFilter(("team", "default"), states=(TaskState.FAILED, TaskState.QUEUED), agent_id="a0"),
            [9, 6, 3],
        ),
        (TaskFilter(("team", "default"), task_type="build"), [10, 5]),
        (TaskFilter(("other",)), []),
        (TaskFilter(()), []),
    ],
)
def test_tasks_are_listed_newest_first(filled: SqliteStore, condition: TaskFilter, keys: list[int]) -> None:
    assert [task.key for task in filled.list_tasks(condition)] == keys


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        (TaskFilter(("default",), before_key=9), "ix_tasks_namespace_key"),
        (TaskFilter(("default",), states=OPEN), "ix_tasks_open"),
        (TaskFilter(("default", "team"), states=OPEN), "ix_tasks_open"),
        (TaskFilter(("default", "team")), ""),
    ],
)
def test_lists_come_out_of_an_index_in_order(store: SqliteStore, condition: TaskFilter, index: str) -> None:
    statement = (
        select(tasks).where(*reads._task_conditions(condition)).order_by(tasks.c.key.desc()).limit(100)
    )
    sql, parameters = compile_sql(statement)
    plan = " ".join(row[3] for row in store._writer.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_digests_are_found_open_or_ended_in_their_namespace(store: SqliteStore) -> None:
    commit(
        store,
        *(a_task(key) for key in range(1, 1200)),
        a_task(1200, state=TaskState.FAILED, digest=b"e" * 16),
    )
    commit(store, a_task(1201, namespace="team", task_id="t1"))
    found = {each.task_id: each for each in store.find_digests("default", [f"t{n}" for n in range(1, 1300)])}
    assert len(found) == 1200
    assert found["t1200"] == ("t1200", 1200, b"e" * 16, TaskState.FAILED)
    assert [each.key for each in store.find_digests("team", ["t1", "t2"])] == [1201]
    assert store.find_digests("default", []) == []


def test_bodies_are_found_by_key(store: SqliteStore) -> None:
    commit(
        store, a_task(1), a_task(2, payload=b""), a_task(3, payload=b"\0" * 300_000), outputs=[(3, b"out")]
    )
    assert store.get_payloads([1, 2, 3, 4]) == {1: b"input", 2: b"", 3: b"\0" * 300_000, 4: b""}
    assert store.get_payloads([]) == {}
    assert store.get_payload(2) == b""
    assert [store.get_output(key) for key in (1, 3)] == [b"", b"out"]


def test_a_task_is_found_by_its_name_only_in_its_namespace(filled: SqliteStore) -> None:
    found = filled.get_task("team", "t8")
    assert found is not None
    assert found.key == 8
    assert filled.get_task("default", "t8") is None


def test_the_newest_attempts_are_listed_oldest_first(store: SqliteStore) -> None:
    failure = Failure("E", "m", retryable=True)
    ended = [EndedAttempt(1, n, "a", AttemptState.FAILED, n, 1, 2, failure) for n in range(1, 5)]
    commit(store, a_task(1), attempts=[*ended, EndedAttempt(2, 9, "b", AttemptState.LOST, 1, 1, 2, None)])
    assert store.list_attempts(1, 2) == ended[2:]
    assert store.list_attempts(1, 9) == ended
    assert store.list_attempts(3, 9) == []


def sequences(found: list[tuple[int, AuditRecord]]) -> list[tuple[str, int]]:
    return [(record.namespace, record.sequence) for _, record in found]


def test_audit_is_listed_newest_first(store: SqliteStore) -> None:
    records = audit_records("default", 4)
    commit(store, audit=[*records[:2], *audit_records("team", 1, subject="x", method="N"), *records[2:]])
    found = store.list_audit(AuditFilter(("default",)))
    assert [record for _, record in found] == records[::-1]
    assert store.list_audit(AuditFilter(("default",), before_rowid=found[1][0])) == found[2:]
    both = AuditFilter(("default", "team"))
    assert sequences(store.list_audit(both._replace(limit=3))) == [
        ("default", 4),
        ("default", 3),
        ("team", 1),
    ]
    assert sequences(store.list_audit(both._replace(subject="x"))) == [("team", 1)]
    assert sequences(store.list_audit(both._replace(method="N"))) == [("team", 1)]
    assert sequences(store.list_audit(both._replace(denied_only=True, subject="s"))) == [
        ("default", 3),
        ("default", 1),
    ]
    assert store.list_audit(AuditFilter(())) == []
