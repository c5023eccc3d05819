"""A data directory is locked, made, upgraded or refused with the next step; migrations and schema agree."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.ports.store import StorageBrokenError, StorageError, StorageFullError
from meshd.store import migrate, opening, schema
from meshd.store.sqlite import SqliteStore
from tests.unit.store.samples import a_task, commit

HEAD = schema.REVISIONS[-1]
NEXT_REVISION = f"""
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{HEAD}"


def upgrade():
    op.add_column("namespaces", sa.Column("colour", sa.String, nullable=False, server_default="red"))
    op.execute("UPDATE namespaces SET description = 'upgraded'")
"""


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(sql).fetchall()
    connection.close()
    return found


def an_old_database(directory: Path) -> Path:
    store = SqliteStore(directory)
    store.load()
    commit(store, a_task(1))
    store.close()
    return directory / "mesh.db"


def add_revision(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Make this code one revision newer."""
    scripts = directory / "100% migrations"
    shutil.copytree(migrate.MIGRATIONS, scripts)
    (scripts / "versions" / "v9000_next.py").write_text(script)
    monkeypatch.setattr(migrate, "MIGRATIONS", scripts)
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9000"))


def test_a_new_directory_is_its_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    store = SqliteStore(directory)
    assert store.former_revision is None
    store.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("mesh.db", "lock"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_the_pragmas_are_those_of_the_promise(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("wal_autocheckpoint", 4000)):
        assert store._writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)
    reader = opening.open_reader(tmp_path / "mesh.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM tasks")
    reader.close()
    store.close()


def test_a_place_that_holds_no_log_is_refused() -> None:
    with pytest.raises(StorageError, match="put the data directory on a local disk"):
        opening._connect_writer(Path(":memory:"))  # Holds none, as the file systems of networks do not.


def test_a_second_meshd_is_refused_and_told_whom_to_stop(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(StorageError, match=rf"another meshd \(pid {os.getpid()}\) uses .*; stop it"):
        SqliteStore(tmp_path)
    store.close()
    SqliteStore(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/data cannot be made or written .*--data-dir"):
        SqliteStore(tmp_path / "file" / "data")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, _: int) -> None:
        handles.append(handle)
        raise OSError(errno.ENOLCK, "No locks available")

    handles: list[int] = []
    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        StorageError, match=r"cannot be locked and written \(No locks available\); .*local disk"
    ):
        SqliteStore(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(*handles)


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = an_old_database(tmp_path)
    change(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        StorageError, match=f"has revision 9999, this meshd knows up to {HEAD}; run the newer meshd"
    ):
        SqliteStore(tmp_path)
    assert read(path, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert read(path, "SELECT count(*) FROM tasks") == [(1,)]


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b""], ids=["rubbish", "header"])
def test_a_damaged_database_is_refused_with_the_next_step(tmp_path: Path, damage: bytes) -> None:
    path = an_old_database(tmp_path)
    if damage:
        path.write_bytes(damage)
    else:
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 4000)
    with pytest.raises(StorageError, match=r"mesh\.db is damaged: .*restore the newest backup"):
        SqliteStore(tmp_path)
    # The lock is free again.
    path.unlink()
    SqliteStore(tmp_path).close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_IOERR_READ, StorageBrokenError),
        (sqlite3.SQLITE_CORRUPT, StorageBrokenError),
        (sqlite3.SQLITE_FULL, StorageFullError),
        (sqlite3.SQLITE_IOERR_SHMSIZE, StorageFullError),
        (sqlite3.SQLITE_CANTOPEN, StorageError),
    ],
)
def test_only_a_disk_that_fails_is_called_broken(tmp_path: Path, code: int, kind: type[StorageError]) -> None:
    raised = sqlite3.OperationalError("no")
    raised.sqlite_errorcode = code
    with pytest.raises(StorageError) as caught, opening.explained(tmp_path / "mesh.db"):
        raise raised
    assert type(caught.value) is kind


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    change(tmp_path / "mesh.db", "CREATE TABLE something (x)")
    with pytest.raises(StorageError, match="was not made by meshd"):
        SqliteStore(tmp_path)


def test_a_start_killed_while_making_the_database_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").touch()
    store = SqliteStore(tmp_path)
    assert len(store.load().namespaces) == 2
    store.close()


def test_an_older_database_is_copied_aside_and_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = an_old_database(tmp_path / "a%20name?of=ones own")
    add_revision(tmp_path, monkeypatch, NEXT_REVISION)
    store = SqliteStore(path.parent)
    assert store.former_revision == HEAD
    assert store.get_payload(1) == b"input"
    store.close()
    assert read(path, "SELECT DISTINCT colour, description FROM namespaces") == [("red", "upgraded")]
    assert read(path, "SELECT version_num FROM alembic_version") == [("9000",)]
    copy = path.with_name(f"mesh-{HEAD}.db")
    assert read(copy, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert read(copy, "SELECT count(*) FROM payloads") == [(1,)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not list(path.parent.glob("*.part*"))


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = an_old_database(tmp_path / "data")
    add_revision(tmp_path, monkeypatch, NEXT_REVISION + '    op.execute("DELETE FROM no_such_table")\n')
    for _ in range(2):
        with pytest.raises(StorageError, match="no such table"):
            SqliteStore(tmp_path / "data")
    assert read(path, "SELECT DISTINCT description FROM namespaces") == [("",)]
    assert read(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    monkeypatch.undo()
    SqliteStore(tmp_path / "data").close()


@pytest.mark.parametrize("revision", schema.REVISIONS[:-1])
def test_a_database_of_every_earlier_revision_is_brought_up_to_date(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "mesh.db"
    migrate.upgrade(path, revision)
    change(path, "INSERT INTO payloads VALUES (7, x'0102')")
    store = SqliteStore(tmp_path)
    assert store.load().drains == []
    assert store.get_payload(7) == b"\x01\x02"
    store.close()
    assert read(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_the_migrations_lead_to_the_schema(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    migrate.upgrade(tmp_path / "migrated.db")
    made, migrated = (
        sorted(read(tmp_path / name, "SELECT name, sql FROM sqlite_master WHERE name <> 'alembic_version'"))
        for name in ("mesh.db", "migrated.db")
    )
    assert made == migrated
    revision = read(tmp_path / "migrated.db", "SELECT version_num FROM alembic_version")
    assert revision == read(tmp_path / "mesh.db", "SELECT version_num FROM alembic_version")
    assert len(list((migrate.MIGRATIONS / "versions").glob("v*.py"))) == len(schema.REVISIONS)


def test_a_usual_start_imports_no_alembic(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from meshd.store.sqlite import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1])); store.load(); store.close(); sys.exit('alembic' in sys.modules)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
