"""A disk that runs full at ten points: `python -m tests.faults.full_disk`.

The data directory is a tmpfs, and meshd refuses new work at the default of less than 64 MiB free. At each point somebody
else takes space until only so much is left, while tasks are submitted, run and reported. Then new work is refused, what
was acknowledged can be read and cancelled, and as soon as there is space again work is taken without anybody's help. One
load runs through all points; the oracle judges what it saw.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh import Mesh, MeshError
from agentmesh.errors import StorageLow
from agentmesh.v1.task_pb2 import TASK_STATE_CANCELLED
from tests.e2e.wrong_things.small_disk import SmallDisk
from tests.faults.load import Load
from tests.faults.meshd_process import ChildProcess, MeshdProcess
from tests.faults.oracle import Violation, judge
from tests.faults.recording_worker import executions

DISK_MIB = 160
#: What is left for meshd at each of the points, in KiB.
POINTS_LEFT_KIB = (60_000, 30_000, 10_000, 4_000, 1_000, 100, 4, 0, 0, 0)
FULL_S = 2.0
NOTICED_S = 1.2
"""The space is looked up once a second."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    points: int = 0
    refused: int = 0
    read: int = 0
    cancelled: int = 0
    recovered: int = 0
    exits: list[int] = field(default_factory=list)
    acked: int = 0
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"full at {self.points} points: new work refused at {self.refused}, acknowledged tasks read at {self.read}, "
            f"cancelled at {self.cancelled}, work taken again without help at {self.recovered}; "
            f"meshd ended at {len(self.exits)}; {self.acked} tasks acknowledged, {len(self.violations)} violations"
        )

    @property
    def sound(self) -> bool:
        """True when each promise held at each point."""
        kept = {self.refused, self.read, self.cancelled, self.recovered}
        return kept == {self.points} and not self.violations and not self.exits


async def run(folder: Path, points_left_kib: tuple[int, ...] = POINTS_LEFT_KIB) -> Report:
    """Fills the disk at each point and frees it again."""
    report = Report()
    log = folder / "executions.jsonl"
    async with contextlib.AsyncExitStack() as stack:
        disk = stack.enter_context(SmallDisk(folder / "data", DISK_MIB))
        meshd = MeshdProcess(folder, before=disk.inside)
        stack.enter_context(meshd)
        environment = {"AGENTMESH_ADDRESS": meshd.address, "AGENTMESH_AGENT_ID": "worker"}
        environment["AGENTMESH_STATE_DIR"] = str(folder / "agent")
        stack.enter_context(
            ChildProcess.python("worker", "tests.faults.recording_worker", folder, str(log), **environment)
        )
        mesh = await stack.enter_async_context(Mesh(meshd.address, namespace="default", retry_for_s=0.0))
        load = Load(meshd.address, seed=1)
        clients = asyncio.create_task(load.run_steadily(8))
        try:
            for left_kib in points_left_kib:
                await _point(mesh, meshd, disk, left_kib, report)
        finally:
            clients.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clients
        await load.settle(30.0)
    load.history.executions = executions(log)
    report.acked = sum(submit.acked for submit in load.history.submits)
    report.violations = judge(load.history)
    return report


async def _point(mesh: Mesh, meshd: MeshdProcess, disk: SmallDisk, left_kib: int, report: Report) -> None:
    """One point: full for a while, then free."""
    number = report.points
    report.points += 1
    await asyncio.sleep(NOTICED_S)
    await mesh.submit("nobody-takes-this", task_id=f"kept-{number}")
    await mesh.submit("nobody-takes-this", task_id=f"unwanted-{number}")
    await asyncio.to_thread(disk.fill, leave_kib=left_kib)
    try:
        await asyncio.sleep(NOTICED_S)  # others go on reporting meanwhile
        with contextlib.suppress(MeshError):
            try:
                await mesh.submit("nobody-takes-this")
            except StorageLow:
                report.refused += 1
        with contextlib.suppress(MeshError):
            report.read += (await mesh.get(f"kept-{number}")).spec.task_id == f"kept-{number}"
        with contextlib.suppress(MeshError):
            report.cancelled += (await mesh.cancel(f"unwanted-{number}")).state == TASK_STATE_CANCELLED
        await asyncio.sleep(FULL_S - NOTICED_S)
    finally:
        await asyncio.to_thread(disk.free)
    if not meshd.running:
        report.exits.append(meshd.wait(0))
        await asyncio.to_thread(meshd.start)
        return
    until_s = time.monotonic() + 5.0
    while time.monotonic() < until_s:
        with contextlib.suppress(MeshError):
            await mesh.submit("nobody-takes-this", task_id=f"welcome-{number}")
            report.recovered += 1
            return
        await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=len(POINTS_LEFT_KIB), help="only the first of them")
    points = POINTS_LEFT_KIB[: parser.parse_args().points]
    with tempfile.TemporaryDirectory(prefix="agentmesh-full-") as folder:
        report = asyncio.run(run(Path(folder), points))
    print(report)
    for violation in report.violations[:20]:
        print(f"  {violation.task_id}: {violation.rule} ({violation.detail})")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
