"""Reads find what was asked for, in order, by an index, and nothing of another namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.domain.records import AuditRecord
from meshd.domain.values import AttemptState, EndedAttempt, Failure, Task, TaskState
from meshd.ports.store import AuditFilter, Listed, StorageBrokenError, TaskFilter, never
from meshd.store import reads
from meshd.store.compiled import compile_sql
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
    assert [task.key for task in filled.list_tasks(condition).found] == keys


@pytest.mark.parametrize(
    "condition",
    [
        TaskFilter(("team", "default"), task_type="build"),
        TaskFilter(("team", "default"), agent_id="a1"),
        TaskFilter(("default",), states=(TaskState.FAILED,)),
        TaskFilter(("default",), states=OPEN),
    ],
)
def test_a_list_that_is_stopped_goes_on_where_it_was(filled: SqliteStore, condition: TaskFilter) -> None:
    whole = filled.list_tasks(condition)
    assert whole.rest == 0
    found: list[Task] = []
    pages = rest = 0
    while pages == 0 or rest:
        page = filled.list_tasks(condition._replace(limit=1, before_key=rest), lambda: True)
        assert len(page.found) <= 1
        found, pages, rest = [*found, *page.found], pages + 1, page.rest
    assert [task.key for task in found] == [task.key for task in whole.found]
    assert pages > len(found)


def test_a_list_looks_at_few_rows_before_it_asks_whether_to_stop(
    filled: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "LOOKED_AT_ONCE", 3)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 2

    page = filled.list_tasks(TaskFilter(("team", "default"), task_type="none", limit=1), stop)
    assert page == ([], 11 - 2 - 3), "two rows, then three"
    assert filled.list_tasks(TaskFilter(("team", "default"), task_type="none"), never) == ([], 0)


@pytest.mark.parametrize(
    ("walk", "index"),
    [
        (reads._task_walk(TaskFilter(("default",), before_key=9)), "ix_tasks_namespace_key"),
        (reads._task_walk(TaskFilter(("default",), states=OPEN)), "ix_tasks_open"),
        (reads._task_walk(TaskFilter(("default", "team"), states=OPEN)), "ix_tasks_open"),
        (reads._task_walk(TaskFilter(("default", "team"))), ""),
        (reads._audit_walk(AuditFilter(("default",), subject="s")), "sqlite_autoindex_audit"),
        (reads._audit_walk(AuditFilter(("default", "team"))), ""),
    ],
)
def test_lists_come_out_of_an_index_in_order(store: SqliteStore, walk: reads.Walk, index: str) -> None:
    for statement in (walk.piece(), walk.end_of_piece()):
        sql, parameters = compile_sql(statement)
        plan = " ".join(row[3] for row in store._writer.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
        assert index in plan
        assert "<" in plan, "it begins where the page before ended"
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


def test_a_page_that_makes_no_sense_is_told_apart_from_what_may_pass(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(store, a_task(1), a_task(2, payload=b"Q" * 50_000))
    store.close()
    content = bytearray((tmp_path / "mesh.db").read_bytes())
    inner = [at for at in range(0, len(content), 4096) if content[at + 100 : at + 4000] == b"Q" * 3900][1]
    content[inner : inner + 4] = b"\xff\xff\xff\xf0"  # The page on which the payload goes on.
    (tmp_path / "mesh.db").write_bytes(content)
    store = SqliteStore(tmp_path)
    store.load()
    assert store.get_payload(1) == b"input"
    with pytest.raises(StorageBrokenError, match="is damaged"):
        store.get_payloads([1, 2])
    store.close()


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


def sequences(listed: Listed[AuditRecord]) -> list[tuple[str, int]]:
    return [(record.namespace, record.sequence) for record in listed.found]


def test_audit_is_listed_newest_first(store: SqliteStore) -> None:
    records = audit_records("default", 4)
    commit(store, audit=[*records[:2], *audit_records("team", 1, subject="x", method="N"), *records[2:]])
    assert store.list_audit(AuditFilter(("default",))) == (records[::-1], 0)
    page = store.list_audit(AuditFilter(("default",), limit=2))
    assert page.found == records[:1:-1]
    assert store.list_audit(AuditFilter(("default",), before=page.rest)) == (records[1::-1], 0)
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
    assert store.list_audit(AuditFilter(())) == ([], 0)
