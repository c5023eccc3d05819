"""A restore brings the tasks back, and nothing that was handed out or taken away since comes alive by it."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshd import maintenance
from meshd.config import StartError
from meshd.domain import audit
from meshd.domain.access import LOCAL_OPERATOR, AccessRule, Action, Call, Scope
from meshd.domain.limits import SessionRules
from meshd.domain.records import AuditRecord, IdentityRecord, JoinTokenRecord, RevocationRecord
from meshd.domain.values import AttemptState, NamespaceInfo, OutcomeReason, TaskState
from meshd.engine.mesh import Entry, Mesh
from meshd.engine.recovery import EPOCH_JUMP
from meshd.ops.metrics import Metrics
from meshd.ports.store import AuditFilter, Restored
from meshd.security.keys import load_signing_key
from meshd.store import migrate
from meshd.store.backup import examine
from meshd.store.sqlite import SqliteStore
from tests.unit.store.file_limit import files_up_to
from tests.unit.store.samples import FAR_MS, a_task, an_agent, an_ended_task, audit_records, commit

NOW_MS = time.time_ns() // 1_000_000
HELD: dict[str, Any] = {"agent_id": "a", "session_id": "s", "attempt": 2, "losses": 1}


class Places:
    """A data directory, and a backup of it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.file = folder / "b.db"

    @contextmanager
    def open(self) -> Iterator[tuple[SqliteStore, Restored]]:
        store = SqliteStore(self.data)
        try:
            yield store, store.load()
        finally:
            store.close()

    def backup(self) -> str:
        return maintenance.backup(str(self.data), str(self.file))

    def restore(self, *, replace: bool = True) -> str:
        return maintenance.restore(str(self.data), str(self.file), replace=replace)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def identity(agent_id: str, key: bytes, generation: int = 0) -> IdentityRecord:
    return IdentityRecord(
        "default", agent_id, 2, ("*",), key, f"{agent_id}.{generation}.x", FAR_MS, generation
    )


def by_agent(restored: Restored) -> dict[str, IdentityRecord]:
    return {each.agent_id: each for each in restored.identities}


def test_what_was_under_way_goes_back_to_the_queue_under_another_incarnation(places: Places) -> None:
    held = AttemptState.ASSIGNED
    stopping = {
        **HELD,
        "attempt_state": AttemptState.STOPPING,
        "cancel_cause": OutcomeReason.CANCEL_REQUESTED,
    }
    with places.open() as (store, _):
        commit(
            store,
            a_task(1, incarnation=1),
            a_task(2, incarnation=2, state=TaskState.ASSIGNED, attempt_state=held, **HELD),
            a_task(3, incarnation=3, state=TaskState.RUNNING, **stopping),
            a_task(4, incarnation=4, state=TaskState.WAITING, next_attempt_ms=FAR_MS),
            an_ended_task(5, NOW_MS),
            agents={("default", "a"): an_agent("a", session=True)},
            outputs=[(5, b"result")],
        )
    told = places.backup()
    assert "5 tasks (4 open), 1 agents in 2 namespaces" in told
    places.restore()
    with places.open() as (store, restored):
        tasks = {task.key: task for task in restored.tasks}
        assert {key: task.state for key, task in tasks.items()} == {
            1: TaskState.QUEUED,
            2: TaskState.QUEUED,
            4: TaskState.WAITING,
        }
        assert (tasks[2].attempt, tasks[2].losses) == (2, 1)
        assert [each.number for each in store.list_attempts(2, 9)] == [2]
        cancelled = store.get_task("default", "t3")
        assert cancelled is not None
        assert cancelled.state is TaskState.CANCELLED
        assert all(task.incarnation > 1_000 for task in restored.tasks)
        assert len({task.incarnation for task in restored.tasks}) == 3
        assert (store.get_payload(2), store.get_output(5)) == (b"input", b"result")
        (agent,) = restored.agents
        assert agent.session is None
        assert agent.health_cause == "the mesh was restored from a backup"


def test_epochs_jump_beyond_all_that_were_seen(places: Places) -> None:
    with places.open() as (_, restored):
        before = {info.name: info.epoch for info in restored.namespaces}
    places.backup()
    for _ in range(3):
        with places.open() as (_, restored):
            lived = max(info.epoch for info in restored.namespaces)
    with places.open() as (store, _):
        commit(store, namespaces=[NamespaceInfo("made since", "", 0, lived + 7)])
    places.restore()
    with places.open() as (_, restored):
        after = {info.name: info.epoch for info in restored.namespaces}
    assert set(after) == set(before)
    (epoch,) = set(after.values())
    assert lived + 7 + EPOCH_JUMP <= epoch <= lived + 7 + 2 * EPOCH_JUMP + 2


@pytest.mark.anyio
async def test_a_namespace_that_is_made_again_after_a_restore_has_an_epoch_that_nobody_saw(
    places: Places,
) -> None:
    with places.open():
        pass
    places.backup()
    entry = Entry(Call(LOCAL_OPERATOR, "CreateNamespace", "", AccessRule(Action.ADMIN, "acl", Scope.MESH)))
    epochs = []
    for restores in (2, 1, 1):
        with places.open() as (store, restored):
            mesh = Mesh(store, restored, SessionRules(), Metrics(), lambda error: pytest.fail(str(error)))
            info, new = await mesh.create_namespace("blue", "", entry)
            await mesh.shutdown()
        assert new
        epochs.append(info.epoch)
        for _ in range(restores):
            places.restore()
    assert all(later > earlier + EPOCH_JUMP for earlier, later in itertools.pairwise(epochs))


def test_tokens_and_join_tokens_of_before_are_void(places: Places) -> None:
    join = JoinTokenRecord(b"h", "default", "a", 2, (), FAR_MS, 3, 0, "")
    with places.open() as (store, restored):
        assert restored.token_watermark_ms == 0
        commit(store, join_tokens={b"h": join})
    places.backup()
    for _ in range(2):
        start_ms = time.time_ns() // 1_000_000
        places.restore()
        with places.open() as (_, restored):
            assert start_ms <= restored.token_watermark_ms <= time.time_ns() // 1_000_000
            assert [each.uses_left for each in restored.join_tokens] == [0]


def test_a_clock_a_little_behind_voids_the_tokens_of_its_future_too(places: Places) -> None:
    ahead_ms = time.time_ns() // 1_000_000 + 20_000
    with places.open() as (store, _):
        commit(
            store,
            audit=[AuditRecord("default", 1, ahead_ms, "s", "p", "M", "o", True, "", 1, b"", b"", b"h")],
        )
    places.backup()
    places.restore()
    with places.open() as (_, restored):
        assert restored.token_watermark_ms == ahead_ms


def test_what_was_revoked_since_the_backup_stays_revoked(places: Places) -> None:
    old = {name: identity(name, b"k") for name in ("kept", "revoked", "replaced")}
    with places.open() as (store, _):
        commit(store, identities={("default", name): each for name, each in old.items()})
    places.backup()
    gone = RevocationRecord("family", "default", 1, FAR_MS)
    since = {
        "revoked": identity("revoked", b"", 1),
        "replaced": identity("replaced", b"k2"),
        "joined": identity("joined", b"k"),
        "came-and-went": identity("came-and-went", b"", 1),
    }
    with places.open() as (store, _):
        same_family = gone._replace(namespace="other")
        commit(
            store,
            identities={("default", name): each for name, each in since.items()},
            revocations=[gone, same_family],
        )
    places.restore()
    with places.open() as (_, restored):
        found = by_agent(restored)
        assert found == {
            "kept": old["kept"],
            "revoked": since["revoked"],
            "replaced": since["replaced"],
            "came-and-went": since["came-and-went"],
        }
        assert sorted(each.namespace for each in restored.revocations) == ["default", "other"]


def test_the_older_of_two_databases_revives_nobody(places: Places) -> None:
    """The backup is the newer one: a stale data directory, restored over, has no say."""
    with places.open() as (store, _):
        commit(store, identities={("default", "a"): identity("a", b"old")})
        stale = maintenance.backup(str(places.data), str(places.file) + ".stale")
    with places.open() as (store, _):
        commit(store, identities={("default", "a"): identity("a", b"", 1)})
    places.backup()
    assert stale
    maintenance.restore(str(places.data), str(places.file) + ".stale", replace=True)
    places.restore()
    with places.open() as (_, restored):
        assert by_agent(restored)["a"].public_key == b""


def test_every_chain_tells_of_the_restore_and_is_whole(places: Places) -> None:
    with places.open() as (store, _):
        first = AuditRecord("default", 1, 1, "s", "p", "M", "o", True, "", 1, b"", audit.FIRST_HASH, b"")
        commit(store, audit=[first._replace(hash=audit.record_hash(first))])
    places.backup()
    places.restore()
    with places.open() as (store, _):
        for namespace, length in (("default", 2), ("_mesh", 1)):
            records = store.list_audit(AuditFilter((namespace,))).found
            assert len(records) == length
            assert (records[0].method, records[0].subject) == ("meshd restore", "operator:local")
            assert len(records[0].object_digest) == 32
            assert audit.verify(reversed(records)) is None


def test_the_old_database_is_replaced_only_when_told_and_kept_aside(places: Places) -> None:
    with places.open() as (store, _):
        commit(store, a_task(1))
    places.backup()
    with places.open() as (store, _):
        commit(store, a_task(2))
    with pytest.raises(StartError, match="holds a database already") as caught:
        places.restore(replace=False)
    assert "--replace" in caught.value.next_step
    told = places.restore()
    (kept,) = places.data.glob("mesh-before-restore-*.db")
    assert f"kept as {kept}" in told
    assert examine(kept).tasks == 2
    assert examine(places.data / "mesh.db").tasks == 1
    assert sorted(each.name for each in places.data.iterdir() if each != kept) == [
        "lock",
        "mesh.db",
        "reserve",
    ]


def test_a_fresh_directory_needs_no_word_and_is_told_what_is_not_known(
    places: Places, tmp_path: Path
) -> None:
    with places.open() as (store, _):
        commit(store, a_task(1))
    places.backup()
    told = maintenance.restore(str(tmp_path / "fresh"), str(places.file), replace=False)
    assert "what was revoked since the backup is not known here" in told
    with pytest.raises(StartError, match="there is no file"):
        maintenance.restore(str(tmp_path / "never"), str(tmp_path / "absent"), replace=False)
    assert not (tmp_path / "never").exists()


def test_nothing_is_restored_under_a_running_meshd(places: Places) -> None:
    with places.open():
        places.backup()
        with pytest.raises(StartError, match=rf"another meshd \(pid {os.getpid()}\) uses"):
            places.restore()


@pytest.mark.parametrize("logs", [(), ("-wal", "-shm")])
def test_a_damaged_database_is_kept_as_it_is_and_told(places: Places, logs: tuple[str, ...]) -> None:
    with places.open() as (store, _):
        commit(store, a_task(1))
    places.backup()
    for suffix in ("", *logs):
        (places.data / f"mesh.db{suffix}").write_bytes(b"rubbish" * 1000)
    told = places.restore()
    assert "what was revoked since the backup is not known: the database" in told
    (kept,) = places.data.glob("mesh-before-restore-*.db")
    assert kept.read_bytes() == b"rubbish" * 1000
    with places.open() as (_, restored):
        assert len(restored.tasks) == 1


def test_a_stray_log_is_not_played_into_the_restored_database(places: Places) -> None:
    with places.open() as (store, _):
        commit(store, a_task(1))
        log = (places.data / "mesh.db-wal").read_bytes()
        places.backup()
    (places.data / "mesh.db").unlink()
    (places.data / "mesh.db-wal").write_bytes(log)
    places.restore(replace=False)
    with places.open() as (_, restored):
        assert restored.token_watermark_ms


def test_what_cannot_be_folded_into_the_prepared_database_restores_nothing(places: Places) -> None:
    with places.open() as (store, _):
        commit(store, audit=audit_records("default", 1_000, object="o" * 300))
    places.backup()
    gone = [RevocationRecord(f"{n:0300}", "default", 1, FAR_MS) for n in range(100)]
    with places.open() as (store, _):
        commit(store, revocations=gone)
    with (
        files_up_to(places.file.stat().st_size),
        pytest.raises(StartError, match=r"restoring/mesh\.db cannot be"),
    ):
        places.restore()
    assert {each.name for each in places.data.iterdir()} == {"lock", "mesh.db", "reserve"}
    places.restore()
    with places.open() as (_, restored):
        assert len(restored.revocations) == 100


def test_nothing_is_restored_over_a_database_that_needs_its_log(places: Places) -> None:
    with places.open():
        places.backup()
    with closing(sqlite3.connect(f"{(places.data / 'mesh.db').as_uri()}?mode=ro", uri=True)) as reader:
        with places.open() as (store, _):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM tasks").fetchone()
            commit(store, a_task(1))
        log_bytes = (places.data / "mesh.db-wal").stat().st_size
        with pytest.raises(StartError, match="another program reads"):
            places.restore()
        assert (places.data / "mesh.db-wal").stat().st_size == log_bytes
        reader.execute("COMMIT")
        places.restore()


@pytest.mark.parametrize("set_back", [False, True])
def test_a_clock_far_behind_the_mesh_restores_nothing(places: Places, set_back: bool) -> None:
    late = AuditRecord("default", 1, NOW_MS + 3_600_000, "s", "p", "M", "o", True, "", 1, b"", b"", b"h")
    with places.open() as (store, _):
        commit(store, audit=[late])
        if set_back:
            commit(store, audit=[late._replace(sequence=2, time_ms=NOW_MS, hash=b"i")])
    places.backup()
    key = places.data / "keys" / "signing.pem"
    load_signing_key(key.parent)
    with pytest.raises(StartError, match=r"the clock of this host is 3\d\d\d s behind") as caught:
        places.restore()
    assert f"remove {key} first" in caught.value.next_step
    key.unlink()
    places.restore()
    with places.open() as (_, restored):
        assert NOW_MS <= restored.token_watermark_ms < NOW_MS + 1_000_000


def test_a_backup_of_an_older_meshd_is_upgraded_on_its_way(places: Places) -> None:
    migrate.upgrade(places.file, "0001")
    places.data.mkdir()
    places.restore(replace=False)
    with places.open() as (_, restored):
        assert restored.token_watermark_ms
    assert not list(places.data.glob("mesh-0001*"))


def test_what_an_interrupted_restore_left_is_swept_away(places: Places) -> None:
    with places.open() as (store, _):
        commit(store, a_task(1))
    places.backup()
    (places.data / "restoring").mkdir()
    (places.data / "restoring" / "mesh.db").write_bytes(b"half")
    places.restore()
    assert not (places.data / "restoring").exists()
