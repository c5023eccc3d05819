"""Root gives what it makes to the directory's owner; whoever lacks a permission is told which file it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from meshd import maintenance
from meshd.ports.store import StorageError
from meshd.store.backup import back_up, examine
from meshd.store.sqlite import SqliteStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

NOBODY = 65_534


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others than root can reach, which pytest's own are not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def data(place: Path) -> Path:
    """A data directory of another user."""
    directory = place / "data"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    with as_nobody():
        SqliteStore(directory).close()
    return directory


def test_a_restore_by_root_leaves_all_to_the_owner_of_the_directory(data: Path, place: Path) -> None:
    maintenance.backup(str(data), str(place / "b.db"))
    fresh = place / "fresh"
    fresh.mkdir(mode=0o700)
    os.chown(fresh, NOBODY, NOBODY)
    for directory in (data, fresh):
        maintenance.restore(str(directory), str(place / "b.db"), replace=True)
        assert {file.stat().st_uid for file in directory.iterdir()} == {NOBODY}
        with as_nobody():
            SqliteStore(directory).close()


@pytest.mark.parametrize("name", ["mesh.db", "mesh.db-shm", "lock"])
def test_a_file_of_another_user_is_named(data: Path, name: str) -> None:
    with as_nobody():
        (data / "mesh.db-shm").touch()
    os.chown(data / name, 0, 0)
    (data / name).chmod(0o600)
    with (
        as_nobody(),
        pytest.raises(
            StorageError, match=rf"{name} belongs to root, mode 0600; run this as root, or give it"
        ),
    ):
        SqliteStore(data).close()


def test_a_file_of_ones_own_that_may_not_be_written_is_named(data: Path) -> None:
    # One of another size SQLite would make the owner's again by itself.
    (data / "mesh.db-shm").write_bytes(bytes(32_768))
    (data / "mesh.db-shm").chmod(0o400)
    os.chown(data / "mesh.db-shm", NOBODY, NOBODY)
    with (
        as_nobody(),
        pytest.raises(StorageError, match=r"mesh.db-shm belongs to nobody, mode 0400; chmod u\+rw .*shm"),
    ):
        SqliteStore(data).load()


def test_a_backup_by_another_user_is_told_whose_the_directory_is(data: Path, place: Path) -> None:
    os.chown(data, 0, 0)
    data.chmod(0o700)
    with as_nobody(), pytest.raises(StorageError, match=r"data belongs to root, mode 0700; run this as root"):
        back_up(data, place / "b.db")
    with as_nobody(), pytest.raises(StorageError, match=r"mesh.db cannot be read as a backup: .*denied"):
        examine(data / "mesh.db")
