"""Power cuts: `python -m tests.faults.power_cuts --cuts 3000`, and with `--synchronous NORMAL` as negative control.

meshd runs once under load while every write, sync, truncation, creation and removal of its database files is recorded,
and in between what clients heard. Then the power is cut at points spread evenly over the record: what was synced is
there; of what was not, writes are kept, dropped, or torn by sectors, and a name whose directory was not synced may be
missing. SQLite opens what is left, and the oracle judges what clients had heard by then. Exits with 0 when nothing is
lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentmesh.v1.payload_pb2 import Payload
from meshd.domain.values import TaskState
from meshd.store.sqlite import SqliteStore
from tests.faults.disk import Change, Disk
from tests.faults.load import Load
from tests.faults.meshd_process import ChildProcess, MeshdProcess
from tests.faults.oracle import TERMINAL, Execution, History, Read, Rule, Submit, judge
from tests.faults.recording_worker import executions

SECTOR_BYTES = 512
CHECKPOINT_PAGES = 200
#: Every so many cuts meshd's own store opens what is left and SQLite checks all of it.
FULL_CHECK_EVERY = 20
#: A recording ends in the middle of work, so the oracle may not ask for an outcome.
_UNFAIR = frozenset({Rule.NEVER_ENDED})
_AFTER_ALL_S = 1e12


@dataclass(slots=True)
class Recording:
    """What one run of meshd wrote, and what its clients heard when."""

    root: Path
    changes: list[Change]
    heard: list[Submit | Read]
    executions: list[Execution]


@dataclass(slots=True)
class Report:
    """What came of it."""

    cuts: int = 0
    changes: int = 0
    acked: int = 0
    folded: int = 0
    #: Cuts after which something acknowledged or seen was gone, and the most that was gone at once.
    lossy: int = 0
    most_lost: int = 0
    first: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts over {self.changes} recorded changes ({self.folded} checkpoints, "
            f"{self.acked} tasks acknowledged): acknowledged rows lost in {self.lossy}, at most {self.most_lost}"
        )


async def record(folder: Path, synchronous: str, for_s: float, seed: int) -> Recording:
    """Runs meshd under load for a while, then kills it."""
    disk = Disk(folder, folder / "data", records=True)
    heard: list[Submit | Read] = []

    def hear(item: Submit | Read) -> None:
        disk.mark(len(heard))
        heard.append(item)

    pragmas: dict[str, Any] = {
        "DISK_SYNCHRONOUS": synchronous,
        "DISK_CHECKPOINT_PAGES": str(CHECKPOINT_PAGES),
    }
    log = folder / "executions.jsonl"
    with contextlib.ExitStack() as processes:
        meshd = processes.enter_context(
            MeshdProcess(folder, module="tests.faults.meshd_with_points", **disk.environment, **pragmas)
        )
        environment = {"AGENTMESH_ADDRESS": meshd.address, "AGENTMESH_AGENT_ID": "worker"}
        environment["AGENTMESH_STATE_DIR"] = str(folder / "agent")
        processes.enter_context(
            ChildProcess.python("worker", "tests.faults.recording_worker", folder, str(log), **environment)
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await Load(meshd.address, seed, hear).run()
        meshd.kill()
    return Recording(meshd.data_dir, list(disk.changes()), heard, executions(log))


@dataclass(slots=True)
class File:
    """A file as the disk has it: what is safe, and what is on its way."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    #: Its name, and the end of its name, are safe once the directory was synced.
    name_is_safe: bool = False
    unlinked: bool = False


class Platter:
    """The files below one root, change by change."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, File] = {}

    def apply(self, change: Change) -> None:
        """Take the next change."""
        if change.kind == "C":
            self._files[change.path] = File()
        elif change.kind == "U":
            self._file(change.path).unlinked = True
        elif change.kind == "S" and change.path in self._files:
            file = self._file(change.path)
            for each in file.pending:
                _write(file.safe, each)
            file.pending.clear()
        elif change.kind == "S":
            self._directory_synced(change.path)
        elif change.kind in "WT":
            self._file(change.path).pending.append(change)

    def cut(self, into: Path, rng: random.Random) -> None:
        """Write down what a power cut now might leave."""
        how = rng.choice(("drop", "keep", "tear", "any", "any"))
        for path, file in self._files.items():
            gone_if = file.unlinked or not file.name_is_safe
            if gone_if and rng.random() < 0.5:
                continue
            content = bytearray(file.safe)
            for change in file.pending:
                fate = how if how != "any" else rng.choice(("drop", "keep", "tear"))
                if fate == "keep":
                    _write(content, change)
                elif fate == "tear":
                    _tear(content, change, rng)
            target = into / Path(path).relative_to(self._root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def _file(self, path: str) -> File:
        return self._files.setdefault(path, File(name_is_safe=True))

    def _directory_synced(self, path: str) -> None:
        for name, file in list(self._files.items()):
            if str(Path(name).parent) == path:
                file.name_is_safe = True
                if file.unlinked:
                    del self._files[name]


def _write(content: bytearray, change: Change) -> None:
    if change.kind == "T":
        content[change.offset :] = bytes(max(0, change.offset - len(content)))
        return
    end = change.offset + len(change.data)
    content.extend(bytes(max(0, end - len(content))))
    content[change.offset : end] = change.data


def _tear(content: bytearray, change: Change, rng: random.Random) -> None:
    """Some sectors of a write arrive, others do not; the length of the file may be there without them."""
    if change.kind == "T":
        return
    at = change.offset
    end = at + len(change.data)
    while at < end:
        upto = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if rng.random() < 0.5:
            part = change.data[at - change.offset : upto - change.offset]
            _write(content, Change("W", change.path, at, part))
        at = upto


def replay(recording: Recording, folder: Path, cuts: int, seed: int) -> Report:
    """Cuts the power at `cuts` points and has the oracle judge each."""
    rng = random.Random(seed)
    platter = Platter(recording.root)
    report = Report(changes=sum(change.kind != "M" for change in recording.changes))
    report.folded = _checkpoints(recording.changes)
    submits: dict[str, Submit] = {}
    ends: dict[str, Read] = {}
    due = sorted(rng.randrange(1, len(recording.changes) + 1) for _ in range(cuts))
    for number, change in enumerate(recording.changes, 1):
        if change.kind == "M":
            _heard(recording.heard[change.offset], submits, ends)
        else:
            platter.apply(change)
        while due and due[0] == number:
            due.pop(0)
            left = folder / f"cut-{report.cuts}"
            left.mkdir()
            platter.cut(left, rng)
            report.cuts += 1
            history = History(list(submits.values()), list(ends.values()), recording.executions)
            _judge(history, left, report, checked=report.cuts % FULL_CHECK_EVERY == 0)
            shutil.rmtree(left)
    report.acked = len(submits)
    return report


def _checkpoints(changes: list[Change]) -> int:
    """Count the syncs of the database: in WAL mode only a checkpoint makes one."""
    return sum(change.kind == "S" and change.path.endswith("mesh.db") for change in changes)


def _heard(item: Submit | Read, submits: dict[str, Submit], ends: dict[str, Read]) -> None:
    """Keep the first answer of its kind about each task: the later ones promise no more."""
    if isinstance(item, Submit):
        if item.acked:
            submits.setdefault(item.task_id, item)
    elif item.state in TERMINAL:
        ends.setdefault(item.task_id, item)


def _judge(history: History, left: Path, report: Report, *, checked: bool) -> None:
    try:
        if checked:
            _check(left)
        rows = _rows(left / "mesh.db")
    except Exception as error:  # noqa: BLE001 - whatever stops meshd from starting counts
        report.lossy += 1
        report.first.append(f"cut {report.cuts}: {error!r}")
        return
    for task_id in {submit.task_id for submit in history.submits} | {read.task_id for read in history.reads}:
        state, output = rows.get(task_id, ("NOT_FOUND", b""))
        history.reads.append(Read(task_id, "disk", _AFTER_ALL_S, _AFTER_ALL_S, state, output))
    violations = [violation for violation in judge(history) if violation.rule not in _UNFAIR]
    if violations:
        report.lossy += 1
        report.most_lost = max(report.most_lost, len({violation.task_id for violation in violations}))
        report.first.append(f"cut {report.cuts}: {violations[0].task_id}: {violations[0].rule}")


def _check(left: Path) -> None:
    """Meshd can start from it, and SQLite finds no fault in it."""
    with closing(SqliteStore(left)) as store:
        store.load()
    with closing(sqlite3.connect(left / "mesh.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _rows(database: Path) -> dict[str, tuple[str, bytes]]:
    """State and output of every task."""
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchall():
            return {}
        found = connection.execute(
            "SELECT task_id, state, body FROM tasks LEFT JOIN outputs ON task_key = key"
        ).fetchall()
    return {
        task_id: (
            name := TaskState(state).name,
            Payload.FromString(body or b"").inline if name == "SUCCEEDED" else b"",
        )
        for task_id, state, body in found
    }


async def run(folder: Path, cuts: int, synchronous: str, for_s: float, seed: int) -> Report:
    """Records and replays."""
    recording = await record(folder, synchronous, for_s, seed)
    replays = folder / "replays"
    replays.mkdir()
    return await asyncio.to_thread(replay, recording, replays, cuts, seed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=3_000)
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the recorded run")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="agentmesh-cuts-", dir=memory) as folder:
        report = asyncio.run(
            run(Path(folder), arguments.cuts, arguments.synchronous, arguments.seconds, arguments.seed)
        )
    print(f"synchronous={arguments.synchronous}: {report}")
    for line in report.first[:5]:
        print(f"  {line}")
    return 1 if report.lossy else 0


if __name__ == "__main__":
    sys.exit(main())
