"""The store keeps what it was told, refuses after a failure, and guards its directory."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from meshd.domain.records import AuditRecord, IdentityRecord, JoinTokenRecord, RevocationRecord, Writes
from meshd.domain.values import (
    Agent,
    AgentSpec,
    AgentType,
    AttemptState,
    EndedAttempt,
    Failure,
    Health,
    NamespaceInfo,
    Requirements,
    Session,
    Task,
    TaskSpec,
    TaskState,
)
from meshd.ports.store import AuditFilter, StorageError, TaskFilter
from meshd.store.sqlite import SqliteStore

FAR_MS = 1 << 45


def make_task(key: int, task_id: str = "", **fields: object) -> Task:
    spec = TaskSpec(task_id or f"t{key}", "work", b"input", b"d" * 16, Requirements(frozenset(("work",))))
    task = Task(key, "default", spec, 1 << 63, TaskState.QUEUED, 5, "operator:test", 5)
    for name, value in fields.items():
        setattr(task, name, value)
    return task


def commit(store: SqliteStore, *new: Task, **more: object) -> None:
    writes = Writes(new_tasks={task.key: task for task in new})
    for name, value in more.items():
        setattr(writes, name, value)
    store.commit(store.snapshot(writes))


def test_what_is_committed_is_there_after_the_process_is_gone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(store, make_task(1), make_task(2, state=TaskState.SUCCEEDED, end_ms=9), outputs=[(2, b"out")])
    store._files.writer.close()  # as a kill would: no checkpoint, no tidy end
    import os

    os.close(store._files._lock_fd)
    again = SqliteStore(tmp_path)
    restored = again.load()
    assert [task.key for task in restored.tasks] == [1]
    assert restored.tasks[0].incarnation == 1 << 63
    assert restored.next_key == 3
    assert again.get_payload(1) == b"input"
    assert again.get_output(2) == b"out"
    assert {info.epoch for info in restored.namespaces} == {2}
    again.close()


def test_a_snapshot_is_not_changed_by_what_comes_after(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    task = make_task(1)
    batch = store.snapshot(Writes(new_tasks={1: task}))
    task.state = TaskState.FAILED
    task.spec.payload = b""
    store.commit(batch)
    found = store.get_task("default", "t1")
    assert found is not None
    assert found.state is TaskState.QUEUED
    assert store.get_payload(1) == b"input"
    store.close()


def test_after_a_failed_commit_nothing_is_accepted_any_more(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(store, make_task(1))
    with pytest.raises(StorageError):
        commit(store, make_task(1))
    with pytest.raises(StorageError, match="earlier commit failed"):
        commit(store, make_task(2))
    assert store.get_task("default", "t2") is None
    store.close()


def test_a_second_process_on_the_same_data_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(StorageError, match="another meshd"):
        SqliteStore(tmp_path)
    store.close()
    SqliteStore(tmp_path).close()


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "mesh.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    with pytest.raises(StorageError, match="newer than this meshd"):
        SqliteStore(tmp_path)


def test_a_corrupt_database_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match="restore the newest backup"):
        SqliteStore(tmp_path)


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mesh.db") as db:
        db.execute("CREATE TABLE something (x)")
    db.close()
    with pytest.raises(StorageError, match="not made by meshd"):
        SqliteStore(tmp_path)


def test_known_ids_are_found_open_or_ended(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(store, *[make_task(n) for n in range(1, 1200)], make_task(1200, state=TaskState.FAILED))
    found = store.find_digests("default", [f"t{n}" for n in range(1, 1300)])
    assert len(found) == 1200
    assert not store.find_digests("other", ["t1"])
    store.close()


def test_lists_are_newest_first_and_filtered(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(
        store,
        *[make_task(n, state=TaskState.FAILED if n % 2 else TaskState.QUEUED, agent_id=f"a{n % 3}") for n in range(1, 11)],
    )
    page = TaskFilter(("default",), limit=3)
    assert [task.key for task in store.list_tasks(page)] == [10, 9, 8]
    assert [task.key for task in store.list_tasks(page._replace(before_key=8))] == [7, 6, 5]
    failed = page._replace(states=(TaskState.FAILED,), agent_id="a0", limit=100)
    assert [task.key for task in store.list_tasks(failed)] == [9, 3]
    assert not store.list_tasks(page._replace(namespaces=("other",)))
    store.close()


def test_agents_come_back_with_their_sessions(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    spec = AgentSpec("a", AgentType.CRITIC, "Name", frozenset(("x", "y")), {"k": "v"}, "h", 1, "d", 3, 4, 5)
    agent = Agent("default", spec, 1, Health.HEALTHY, 2, "cause", last_seen_ms=3)
    agent.session = Session("s", agent, b"r", b"k", 7, 8)
    gone = Agent("default", AgentSpec("b", AgentType.WORKER), 1, Health.LOST, 2, "gone")
    commit(store, agents={("default", "a"): agent, ("default", "b"): gone})
    store.close()
    again = SqliteStore(tmp_path)
    first, second = sorted(again.load().agents, key=lambda a: a.spec.agent_id)
    assert second.session is None
    assert first.session is not None
    assert first.session.slots == 7
    assert first.session.ttl_only
    for name in AgentSpec.__slots__:
        assert getattr(first.spec, name) == getattr(spec, name)
    again.close()


def test_identity_records_come_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    join = JoinTokenRecord(b"h", "default", "a", 2, ("x", "y"), FAR_MS, 1, 0, "family")
    identity = IdentityRecord("default", "a", 2, ("*",), b"key", "fam", FAR_MS, 3)
    revoked = RevocationRecord("fam", "default", 1, FAR_MS)
    expired = RevocationRecord("old", "default", 1, 2)
    commit(
        store,
        join_tokens={b"h": join},
        identities={("default", "a"): identity},
        revocations=[revoked, expired],
        namespaces=[NamespaceInfo("team", "words", 1, 1)],
    )
    store.close()
    again = SqliteStore(tmp_path)
    restored = again.load()
    assert restored.join_tokens == [join]
    assert restored.identities == [identity]
    assert restored.revocations == [revoked]
    assert [(i.name, i.epoch) for i in restored.namespaces] == [("_mesh", 2), ("default", 2), ("team", 2)]
    again.close()


def test_attempts_and_audit_are_listed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    ended = [
        EndedAttempt(1, n, "a", AttemptState.FAILED, n, 1, 2, Failure("E", "m", True)) for n in range(1, 5)
    ]
    records = [
        AuditRecord("default", n, n, "s", "p", "M", "o", n % 2 == 0, "R", 1, b"", b"p", b"h%d" % n) for n in range(1, 5)
    ]
    commit(store, make_task(1), attempts=ended, audit=records)
    assert store.list_attempts(1, 2) == ended[2:]
    found = store.list_audit(AuditFilter(("default",), denied_only=True))
    assert [record for _, record in found] == [records[2], records[0]]
    store.close()
    again = SqliteStore(tmp_path)
    assert again.load().audit_heads == {"default": (4, b"h4")}
    again.close()


def test_the_sweep_takes_only_what_ended_before(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.load()
    commit(
        store,
        make_task(1, state=TaskState.FAILED, end_ms=10),
        make_task(2, state=TaskState.FAILED, end_ms=30),
        make_task(3),
    )
    assert store.sweep(20, 100) == 1
    assert [task.key for task in store.list_tasks(TaskFilter(("default",)))] == [3, 2]
    assert store.get_payload(1) == b""
    store.close()


def test_low_space_is_seen(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, min_free_bytes=1 << 60)
    assert store.low_space()
    store.close()
