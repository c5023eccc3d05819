"""A backup is whole, private, checked and never half there; what is no backup is told so."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from meshd.ports.store import StorageError
from meshd.store.backup import back_up, examine
from meshd.store.sqlite import SqliteStore
from tests.unit.store.samples import a_task, an_agent, an_ended_task, audit_records, commit


def database_of(store: SqliteStore) -> Path:
    return store._path


def filled(store: SqliteStore) -> None:
    agents = {("default", name): an_agent(name, session=False) for name in ("a", "b", "c")}
    commit(store, a_task(1), an_ended_task(2, 1), agents=agents, audit=audit_records("default", 5))


def test_it_holds_what_was_committed_before_whether_meshd_runs_or_not(
    store: SqliteStore, tmp_path: Path
) -> None:
    filled(store)
    # Nothing of it is in the database file yet: it is in the log.
    assert (database_of(store).with_name("mesh.db-wal")).stat().st_size > 0
    running = back_up(tmp_path, tmp_path / "running.db")
    store.close()
    stopped = back_up(tmp_path, tmp_path / "stopped.db")
    for contents in (running, stopped):
        assert (contents.tasks, contents.open_tasks, contents.agents, contents.namespaces) == (2, 1, 3, 2)
        assert contents.newest_ms == 5
    assert running == examine(tmp_path / "running.db")


def test_it_is_one_private_file_without_a_log(store: SqliteStore, tmp_path: Path) -> None:
    filled(store)
    (tmp_path / "backups").mkdir()
    back_up(tmp_path, tmp_path / "backups" / "b.db")
    examine(tmp_path / "backups" / "b.db")
    (file,) = (tmp_path / "backups").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_meshd_goes_on_committing_and_none_of_that_is_in_it(store: SqliteStore, tmp_path: Path) -> None:
    filled(store)
    back_up(tmp_path, tmp_path / "b.db")
    commit(store, a_task(3))
    assert examine(tmp_path / "b.db").tasks == 2
    assert len(store.find_digests("default", ["t1", "t3"])) == 2


def test_it_overwrites_nothing(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "b.db").write_text("precious")
    with pytest.raises(StorageError, match=r"b\.db exists already .*; name another file"):
        back_up(tmp_path, tmp_path / "b.db")
    assert (tmp_path / "b.db").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no/b\.db cannot be written: No such file"):
        back_up(tmp_path, tmp_path / "no" / "b.db")
    with pytest.raises(StorageError, match="holds no database of a mesh"):
        back_up(tmp_path / "no", tmp_path / "b.db")


def test_a_damaged_database_makes_no_backup(store: SqliteStore, tmp_path: Path) -> None:
    commit(store, *(a_task(key) for key in range(1, 500)))
    store.close()
    with database_of(store).open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 8)
    with pytest.raises(StorageError, match=r"mesh\.db is damaged"):
        back_up(tmp_path, tmp_path / "b.db")
    assert not list(tmp_path.glob("b.db*"))


def changed(file: Path, sql: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "there is no file"),
        (lambda file: file.touch(), "is empty; use another backup"),
        (lambda file: file.write_bytes(b"no database at all" * 1000), "cannot be read as a backup"),
        (lambda file: changed(file, "CREATE TABLE something (x)"), "was not made by meshd"),
    ],
    ids=["absent", "empty", "rubbish", "foreign"],
)
def test_what_is_no_backup_is_told(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "b.db")  # type: ignore[operator]
    with pytest.raises(StorageError, match=message):
        examine(tmp_path / "b.db")


def test_a_backup_of_a_newer_meshd_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    back_up(tmp_path, tmp_path / "b.db")
    changed(tmp_path / "b.db", "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match=r"b\.db has revision 9999, this meshd knows up to"):
        examine(tmp_path / "b.db")


def test_a_database_copied_by_hand_with_its_log_is_read_with_it(store: SqliteStore, tmp_path: Path) -> None:
    filled(store)
    for suffix in ("", "-wal"):
        (tmp_path / f"by-hand.db{suffix}").write_bytes((tmp_path / f"mesh.db{suffix}").read_bytes())
    assert examine(tmp_path / "by-hand.db").tasks == 2
