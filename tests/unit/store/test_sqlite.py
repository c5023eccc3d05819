"""Commits are whole and lasting, a failure is the end, and a start finds everything again."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from meshd.domain.drains import AgentSelector, Drain
from meshd.domain.records import (
    IdentityRecord,
    JoinTokenRecord,
    RevocationRecord,
    SigningKeyRecord,
    Writes,
)
from meshd.domain.values import (
    AgentSpec,
    AttemptState,
    EndedAttempt,
    Failure,
    NamespaceInfo,
    OutcomeReason,
    TaskState,
)
from meshd.ports.store import AuditFilter, Restored, StorageError, StorageFullError, TaskFilter
from meshd.store import sqlite
from meshd.store.reserve import FILE, PIECE_BYTES, Reserve
from meshd.store.sqlite import FULL_RETRY_S, SqliteStore
from tests.unit.store.file_limit import files_up_to
from tests.unit.store.samples import FAR_MS, a_task, an_agent, an_ended_task, audit_records, commit

KILLED = """
import os, signal, sys
from pathlib import Path
from meshd.store.sqlite import SqliteStore
from tests.unit.store.samples import a_task, an_ended_task, commit
store = SqliteStore(Path(sys.argv[1]))
store.load()
commit(store, a_task(1), an_ended_task(2, 9), outputs=[(2, b"out")])
store._writer.execute("BEGIN IMMEDIATE")
store._writer.execute("DELETE FROM tasks")
os.kill(os.getpid(), signal.SIGKILL)
"""


def restart(store: SqliteStore) -> tuple[SqliteStore, Restored]:
    store.close()
    again = SqliteStore(store._directory)
    return again, again.load()


def test_a_commit_outlives_a_kill_and_what_was_not_committed_does_not(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = SqliteStore(tmp_path)
    restored = store.load()
    assert [task.key for task in restored.tasks] == [1]
    assert restored.next_key == 3
    assert store.get_payload(1) == b"input"
    assert store.get_output(2) == b"out"
    store.close()


def test_every_start_raises_every_epoch(store: SqliteStore) -> None:
    commit(store, namespaces=[NamespaceInfo("team", "words", 7, 1)])
    again, restored = restart(store)
    assert [(info.name, info.epoch) for info in restored.namespaces] == [
        ("_mesh", 2),
        ("default", 2),
        ("team", 2),
    ]
    assert restored.namespaces[2] == NamespaceInfo("team", "words", 7, 2)
    again, restored = restart(again)
    assert {info.epoch for info in restored.namespaces} == {3}
    again.close()


def test_what_changes_after_the_snapshot_is_not_in_it(store: SqliteStore) -> None:
    task = a_task(1, labels={"a": "1"})
    batch = store.snapshot(Writes(new_tasks={1: task}))
    task.state = TaskState.FAILED
    task.spec.payload = b""
    assert task.spec.labels is not None
    task.spec.labels["a"] = "2"
    store.commit(batch)
    found = store.get_task("default", "t1")
    assert found is not None
    assert found.state is TaskState.QUEUED
    assert found.spec.labels == {"a": "1"}
    assert store.get_payload(1) == b"input"


@pytest.mark.parametrize("count", [1, 3, 4, 100, 1365])
def test_any_number_of_rows_is_written_and_changed(store: SqliteStore, count: int) -> None:
    tasks = {key: a_task(key) for key in range(1, count + 1)}
    commit(store, *tasks.values())
    for key, task in tasks.items():
        task.state = TaskState.FAILED
        task.generation += key
        task.failure = Failure("E", f"m{key}", retryable=True)
        task.agent_id = f"a{key}"
    commit(store, changed_tasks=tasks)
    found = store.list_tasks(TaskFilter(("default",), limit=count)).found
    assert [(t.key, t.generation, t.agent_id) for t in found] == [
        (k, k + 1, f"a{k}") for k in range(count, 0, -1)
    ]
    assert found[0].failure == tasks[count].failure


def test_after_a_failed_commit_nothing_is_done_any_more(store: SqliteStore) -> None:
    commit(store, a_task(1))
    with pytest.raises(StorageError, match="refused a commit") as failed:
        commit(store, a_task(1), a_task(2))
    assert "input" not in str(failed.value)
    for again in (
        lambda: commit(store, a_task(3)),
        lambda: store.sweep(FAR_MS, 10),
        lambda: store.get_task("default", "t1"),
        store.load,
    ):
        with pytest.raises(StorageError, match="an earlier commit failed"):
            again()
    again_store, restored = restart(store)
    assert [task.key for task in restored.tasks] == [1]
    again_store.close()


def test_a_failed_sync_is_a_failed_commit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class BadDisk:
        """The writer, but its disk fails at COMMIT and then behaves, as SQLite does."""

        in_transaction = False
        failures = 1

        def execute(self, sql: str, *_: object) -> None:
            if sql == "COMMIT" and self.failures:
                self.failures -= 1
                raise sqlite3.OperationalError("disk I/O error")

        def cursor(self) -> SimpleNamespace:
            return SimpleNamespace(execute=self.execute, close=lambda: None)

    with monkeypatch.context() as patched:
        patched.setattr(store, "_writer", BadDisk())
        with pytest.raises(StorageError, match="disk I/O error; see to its disk"):
            commit(store, a_task(1))
        with pytest.raises(StorageError, match="an earlier commit failed"):
            commit(store, a_task(1))


class FullDisk:
    """The writer, but its disk is full for so many commits, or other statements."""

    def __init__(self, writer: sqlite3.Connection, failures: int, statement: str = "COMMIT") -> None:
        self._writer = writer
        self.failures = failures
        self._statement = statement

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == self._statement and self.failures:
            self.failures -= 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._writer.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


def test_a_full_disk_costs_the_reserve_and_then_time_but_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, 2 * PIECE_BYTES)
    store.load()
    assert (tmp_path / FILE).stat().st_size == PIECE_BYTES
    store._reserve_check_mono = inf
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    full = FullDisk(store._writer, 3)
    monkeypatch.setattr(store, "_writer", full)
    commit(store, a_task(1))
    assert (full.failures, waits) == (0, [FULL_RETRY_S] * 2)
    assert (tmp_path / FILE).stat().st_size == 0
    store._reserve_check_mono = -inf
    commit(store, a_task(2))
    assert (tmp_path / FILE).stat().st_size == PIECE_BYTES
    again, restored = restart(store)
    assert [task.key for task in restored.tasks] == [1, 2]
    again.close()


@pytest.fixture
def long_log(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    """A store whose log counts as long at its next commit."""
    again, _ = restart(store)
    again._reserve_check_mono = -inf
    monkeypatch.setattr(sqlite, "LOG_LIMIT_BYTES", 4_096)
    yield again
    again.close()


def test_a_log_that_cannot_be_folded_is_a_failure(long_log: SqliteStore) -> None:
    size_bytes = long_log._path.stat().st_size
    with files_up_to(size_bytes), pytest.raises(StorageError, match="disk I/O error; see to its disk"):
        commit(long_log, a_task(1, payload=b"p" * (size_bytes // 2)))
    with pytest.raises(
        StorageError, match=r"the log could not be folded into the database .*start meshd again"
    ):
        commit(long_log, a_task(2))
    again, restored = restart(long_log)
    assert [task.key for task in restored.tasks] == [1]
    again.close()


def test_a_log_that_finds_no_space_to_be_folded_is_kept(
    long_log: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullDisk(long_log._writer, 1, "PRAGMA wal_checkpoint(PASSIVE)")
    monkeypatch.setattr(long_log, "_writer", full)
    commit(long_log, a_task(1))
    assert full.failures == 0
    commit(long_log, a_task(2))


def test_a_start_on_a_full_disk_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path, PIECE_BYTES)
    monkeypatch.setattr(store, "_writer", FullDisk(store._writer, 2))
    with pytest.raises(StorageFullError, match="disk is full"):
        store.load()
    store.close()


def test_the_reserve_never_makes_space_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [149]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    reserve = Reserve(tmp_path, 50, 100)
    reserve.take()
    assert not reserve.give()
    free[0] = 150
    reserve.take()
    assert (tmp_path / FILE).stat().st_size == 50
    assert reserve.give()
    assert not reserve.give()


def test_a_closed_store_refuses(store: SqliteStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        commit(store, a_task(1))
    with pytest.raises(StorageError, match="closed"):
        store.get_payload(1)


def test_agents_come_back_with_their_sessions(store: SqliteStore) -> None:
    live, gone = an_agent("a", session=True), an_agent("b", session=False)
    commit(store, agents={("default", "a"): live, ("default", "b"): gone})
    live.succeeded = 99
    commit(store, agents={("default", "a"): live})
    again, restored = restart(store)
    first, second = restored.agents
    assert second.session is None
    assert live.session is not None
    assert first.session is not None
    for name in ("session_id", "resume_hash", "key_hash", "slots", "start_ms"):
        assert getattr(first.session, name) == getattr(live.session, name), name
    assert first.session.agent is first
    assert first.session.ttl_only
    assert not first.session.takes_work
    for name in (each.name for each in fields(AgentSpec)):
        assert getattr(first.spec, name) == getattr(live.spec, name), name
    for name in ("namespace", "create_ms", "health", "health_ms", "health_cause", "revision", "last_seen_ms"):
        assert getattr(first, name) == getattr(live, name), name
    assert (first.succeeded, first.failed, first.lost) == (99, 9, 10)
    live.session = None
    commit(again, agents={("default", "a"): live})
    again, restored = restart(again)
    assert restored.agents[0].session is None
    again.close()


def test_records_of_identity_come_back_as_long_as_they_mean_something(store: SqliteStore) -> None:
    join = JoinTokenRecord(b"h", "default", "a", 2, ("x", "y z"), FAR_MS, 1, 0, "parent")
    late = join._replace(token_hash=b"late", expire_ms=5)
    identity = IdentityRecord("default", "a", 2, ("*",), b"key", "fam", FAR_MS, 3)
    revoked = RevocationRecord("fam", "default", 1, FAR_MS)
    long_ago = RevocationRecord("old", "default", 1, 2)
    key = SigningKeyRecord("k1", b"public", 1)
    commit(
        store,
        join_tokens={b"h": join, b"late": late},
        identities={("default", "a"): identity._replace(generation=2)},
        revocations=[revoked, revoked, long_ago],
        signing_keys=[key],
    )
    commit(store, join_tokens={b"h": join._replace(uses_left=0)}, identities={("default", "a"): identity})
    again, restored = restart(store)
    assert restored.join_tokens == [join._replace(uses_left=0)]
    assert restored.identities == [identity]
    assert restored.revocations == [revoked, long_ago], "until they are swept, whatever this clock says"
    assert restored.signing_keys == [key]
    again.close()


def test_every_chain_has_its_head(store: SqliteStore) -> None:
    commit(store, audit=audit_records("default", 4) + audit_records("_mesh", 2) + audit_records("zz", 3))
    again, restored = restart(store)
    assert restored.audit_heads == {"default": (4, b"h4"), "_mesh": (2, b"h2"), "zz": (3, b"h3")}
    assert again.list_audit(AuditFilter(("_mesh",))).found == audit_records("_mesh", 2)[::-1]
    again.close()


def test_a_chain_cannot_fork(store: SqliteStore) -> None:
    commit(store, audit=audit_records("default", 1))
    with pytest.raises(StorageError):
        commit(store, audit=audit_records("default", 1))


def test_the_sweep_takes_what_ended_before_and_all_that_belongs_to_it(store: SqliteStore) -> None:
    attempts = [EndedAttempt(key, 1, "a", AttemptState.SUCCEEDED, 1, 1, 2, None) for key in (1, 2)]
    commit(
        store,
        *(an_ended_task(1, 10), an_ended_task(2, 30), a_task(3), an_ended_task(4, 5)),
        attempts=attempts,
        outputs=[(1, b"one"), (2, b"two")],
    )
    assert store.sweep(20, 100) == 1
    assert [task.key for task in store.list_tasks(TaskFilter(("default",))).found] == [4, 3, 2]
    assert (store.get_payload(1), store.get_output(1), store.list_attempts(1, 9)) == (b"", b"", [])
    assert (store.get_payload(2), store.get_output(2), store.list_attempts(2, 9)) == (
        b"input",
        b"two",
        attempts[1:],
    )
    # The newest task, 4, stays although it ended first: no key is given out twice.
    again, restored = restart(store)
    assert restored.next_key == 5
    again.close()


def test_the_sweep_stops_at_its_limit(store: SqliteStore) -> None:
    commit(store, *(an_ended_task(key, 1) for key in range(1, 1202)))
    assert store.sweep(20, 700) == 700
    assert store.sweep(20, 700) == 500
    assert store.sweep(20, 700) == 0


def test_the_sweep_takes_expired_records_too(store: SqliteStore) -> None:
    join = JoinTokenRecord(b"h", "default", "a", 2, (), 5, 1, 0, "")
    lifted = Drain("default", "lifted", AgentSelector("*"), "", "operator:test", 1, lift_ms=2)
    drains = {
        ("default", each.drain_id): each for each in (lifted, lifted._replace(drain_id="on", lift_ms=0))
    }
    commit(
        store,
        join_tokens={b"h": join},
        revocations=[RevocationRecord("old", "default", 1, 2)],
        drains=drains,
    )
    assert store.sweep(20, 100) == 0
    for table in ("join_tokens", "revocations"):
        assert store._writer.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    # A drain in force never expires.
    assert store._writer.execute("SELECT drain_id FROM drains").fetchall() == [("on",)]


def test_only_ended_tasks_are_not_restored(store: SqliteStore) -> None:
    states = [state for state in TaskState for _ in range(2)]
    commit(store, *(a_task(key, state=state) for key, state in enumerate(states, 1)))
    again, restored = restart(store)
    assert [task.key for task in restored.tasks] == list(range(1, 9))
    assert all(not task.terminal and task.spec.payload == b"" for task in restored.tasks)
    assert restored.tasks[0].outcome is OutcomeReason.NONE
    again.close()


def test_a_row_that_makes_no_sense_is_damage(store: SqliteStore) -> None:
    commit(store, a_task(1, labels={"a": "b"}))
    store._writer.execute("UPDATE tasks SET options_json = '{'")
    store.close()
    again = SqliteStore(store._directory)
    with pytest.raises(StorageError, match=r"is damaged.*restore the newest backup"):
        again.load()
    again.close()


def test_reads_on_other_threads_see_what_was_committed(store: SqliteStore) -> None:
    seen: list[bytes] = []

    def read() -> None:
        seen.append(store.get_payload(1))

    for _ in range(3):
        commit(store, *([] if seen else [a_task(1)]))
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert seen == [b"input"] * 3
    assert len(store._readers) == 3


def test_low_space_is_looked_up_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([100, 10, 100])
    now = [50.0]
    store = SqliteStore(tmp_path, min_free_bytes=50)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seen: list[bool] = []
    said: list[str] = []
    for now[0] in (50.0, 50.5, 51.0, 51.9, 52.0):
        with structlog.testing.capture_logs() as logged:
            seen.append(store.low_space())
        said += [line["event"].partition(";")[2] for line in logged]
    assert seen == [False, False, True, True, False]
    assert said == [" new work is refused until some is freed", " new work is taken"]
    store.close()


def test_a_disk_that_cannot_be_looked_at_counts_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, min_free_bytes=1)

    def unreadable(_: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr("shutil.disk_usage", unreadable)
    assert store.low_space()
    assert store.measure().free_bytes == 0
    store.close()


def test_the_store_measures_itself_and_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path)
    commit(store, a_task(1))
    files = [tmp_path / "mesh.db", tmp_path / "mesh.db-wal"]
    measured = store.measure()
    assert measured.database_bytes == sum(path.stat().st_size for path in files) > 0
    assert measured.free_bytes > 0
    assert not measured.low
    store.close()
