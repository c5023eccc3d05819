"""kill -9 before every single step of an upgrade, a backup and a restore: `python -m tests.faults.kill_points FOLDER`.

A step is a statement on any connection, a connection made, and a file of the data directory opened, renamed, linked
or removed. For every n a forked child is killed before its nth step, until one gets through. After each kill meshd's
store must open the directory with all that it held, and no half backup bears the name of a whole one. Prints the number of steps of each and exits with 0, or says what
was lost after which step.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from meshd import maintenance
from meshd.store import schema
from meshd.store.backup import examine
from meshd.store.copying import copy_database
from meshd.store.migrate import upgrade
from meshd.store.opening import open_reader, revision_of
from meshd.store.sqlite import SqliteStore
from tests.unit.store.recorded import lay_down, missing_rows
from tests.unit.store.samples import a_task, commit

FILE_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
_LOADED = (copy_database, upgrade)  # so that no import is a step of the child


def kill_before(step: int, directory: Path) -> None:
    """Have this process killed before the nth of its steps from now on."""
    steps = itertools.count(1)

    def count(_: object = None) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        count()
        connection: sqlite3.Connection = real_connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(str(directory)):
            count()

    real_connect = sqlite3.connect
    sqlite3.connect = sqlite3.dbapi2.connect = connect  # type: ignore[assignment]
    sys.addaudithook(hear)


def kill_everywhere(
    template: Path, folder: Path, act: Callable[[Path], None], check: Callable[[Path], None]
) -> int:
    """Kill ``act`` before each of its steps, on a fresh copy each time; returns how many there are."""
    for step in itertools.count(1):
        directory = folder / f"killed-before-{step}"
        shutil.copytree(template, directory)
        child = os.fork()
        if not child:
            kill_before(step, directory)
            act(directory)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
            raise AssertionError(f"it failed by itself in the run meant for step {step}")
        try:
            check(directory)
        except Exception as error:
            raise AssertionError(f"after a kill before step {step}: {error!r}") from error
        shutil.rmtree(directory)
        if not os.WIFSIGNALED(status):
            return step - 1
    raise AssertionError


def open_store(directory: Path) -> None:
    with closing(SqliteStore(directory)) as store:
        store.load()


def check_upgraded(directory: Path) -> None:
    """Meshd opens it, it is current, and everything of old is there."""
    open_store(directory)
    with closing(open_reader(directory / "mesh.db")) as reader:
        assert revision_of(reader, directory) == schema.REVISIONS[-1]
    lost = missing_rows(directory / "mesh.db")
    assert not lost, lost
    copy = directory / "mesh-0001.db"
    assert examine(copy).tasks == 4
    assert not list(directory.glob("*.part"))


def upgrade_steps(folder: Path) -> int:
    template = folder / "old"
    template.mkdir()
    lay_down(template / "mesh.db")
    return kill_everywhere(template, folder, open_store, check_upgraded)


def backup_steps(folder: Path) -> int:
    template = folder / "present"
    with closing(SqliteStore(template)) as store:
        store.load()
        commit(store, a_task(1))

    def back_up(directory: Path) -> None:
        maintenance.backup(str(directory), str(directory / "backup.db"))

    def check(directory: Path) -> None:
        backup = directory / "backup.db"
        if backup.exists():
            assert examine(backup).tasks == 1
        else:
            back_up(directory)
        with closing(SqliteStore(directory)) as store:
            assert [task.key for task in store.load().tasks] == [1]
        assert not list(directory.glob("*.part"))

    return kill_everywhere(template, folder, back_up, check)


def restore_steps(folder: Path) -> int:
    """Restore a backup with four tasks over a database with one other."""
    backup, template = folder / "backup.db", folder / "present"
    lay_down(backup)
    with closing(SqliteStore(template)) as store:
        store.load()
        commit(store, a_task(99))

    def restore(directory: Path) -> None:
        maintenance.restore(str(directory), str(backup), replace=True)

    def check(directory: Path) -> None:
        with closing(SqliteStore(directory)) as store:
            restored = store.load()
        keys = [task.key for task in restored.tasks]
        aside = [examine(path).tasks for path in directory.glob("mesh-before-restore-*.db")]
        if restored.token_watermark_ms:
            assert (keys, aside) == ([1, 2, 3], [1])
        else:
            assert (keys, aside) in (([99], []), ([99], [1]))
        restore(directory)
        assert not (directory / "restoring").exists()
        # Once more, whatever was left: each database that was replaced is kept once.
        assert len(list(directory.glob("mesh-before-restore-*.db"))) == len(aside or [99]) + (keys != [99])

    return kill_everywhere(template, folder, restore, check)


def main() -> int:
    folder = Path(sys.argv[1])
    for name, steps in (("upgrade", upgrade_steps), ("backup", backup_steps), ("restore", restore_steps)):
        own = folder / name
        own.mkdir()
        print(f"{name}: killed before each of {steps(own)} steps, nothing lost", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
