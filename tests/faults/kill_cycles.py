"""kill -9 of meshd under load, again and again: `python -m tests.faults.kill_cycles --cycles 50`.

Each cycle lets clients and workers run for a random while, freezes meshd, looks whether one of its threads is writing
or syncing the database right now (a commit is in flight), and kills it there. Of five kills one comes at a random
moment, one at a point around applying, appending, syncing or releasing a batch (`tests.faults.disk`), each point in
turn; the others freeze and thaw at random moments until they meet a commit. At the end the oracle judges what clients
and workers saw. Exits with 0 only when it finds nothing and at least 60 % of the kills met a commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disk import IN_FLIGHT, Disk, Point
from tests.faults.load import Load
from tests.faults.meshd_process import ChildProcess, MeshdProcess
from tests.faults.oracle import History, Violation, judge
from tests.faults.recording_worker import executions

WORKERS = 3
SETTLE_TIMEOUT_S = 60.0
IN_FLIGHT_GOAL = 0.6
_AIM_TRIES = 200
_POINT_TIMEOUT_S = 10.0
_POINTS = tuple(Point)


@dataclass(slots=True)
class Report:
    """What came of it."""

    cycles: int = 0
    in_flight: int = 0
    at_points: int = 0
    #: Submits without an answer at a kill, and how many of these the mesh had taken all the same.
    unanswered: set[str] = field(default_factory=set)
    recovered: int = 0
    acked: int = 0
    violations: list[Violation] = field(default_factory=list)
    restarts_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        share = self.in_flight / max(1, self.cycles)
        restart_s = sorted(self.restarts_s)[len(self.restarts_s) // 2] if self.restarts_s else 0.0
        return (
            f"{self.cycles} kills of meshd, {self.in_flight} ({share:.0%}) with a commit in flight, {self.at_points} at "
            f"points around applying, appending, syncing and releasing; {self.acked} tasks acknowledged, "
            f"{len(self.unanswered)} submits unanswered at a kill, {self.recovered} of these taken; median restart {restart_s:.2f} s; {len(self.violations)} violations"
        )


async def run_cycles(folder: Path, cycles: int, seed: int, *, broken: str = "") -> Report:
    """Runs the load and the kills, then lets the oracle judge. `broken` is a module to start in meshd's place."""
    rng = random.Random(seed)
    report = Report()
    disk = Disk(folder, folder / "data")
    with contextlib.ExitStack() as processes:
        meshd = processes.enter_context(
            MeshdProcess(folder, module=broken or "tests.faults.meshd_with_points", **disk.environment)
        )
        logs = [folder / f"executions-{number}.jsonl" for number in range(WORKERS)]
        for number, log in enumerate(logs):
            worker = ChildProcess.python(
                f"worker-{number}",
                "tests.faults.recording_worker",
                folder,
                str(log),
                AGENTMESH_ADDRESS=meshd.address,
                AGENTMESH_AGENT_ID=f"worker-{number}",
                AGENTMESH_STATE_DIR=str(folder / "agents"),
            )
            processes.enter_context(worker)
        load = Load(meshd.address, seed)
        clients = asyncio.create_task(load.run())
        try:
            for cycle in range(cycles):
                load.acknowledged.clear()
                async with asyncio.timeout(60.0):
                    await load.acknowledged.wait()
                await asyncio.sleep(rng.uniform(0.1, 0.7))
                if cycle % 5 == 1 and not broken:
                    point = _POINTS[cycle // 5 % len(_POINTS)]
                    await _kill_at(meshd, disk, point)
                    report.at_points += 1
                    report.in_flight += point in IN_FLIGHT
                else:
                    report.in_flight += await _kill(meshd, rng, aimed=cycle % 5 != 0)
                report.cycles += 1
                report.unanswered |= load.unanswered
                if cycle == cycles - 1:
                    await _stop(clients)
                began_s = time.monotonic()
                await asyncio.to_thread(meshd.start)
                report.restarts_s.append(time.monotonic() - began_s)
                if clients.done() and not clients.cancelled():
                    clients.result()
        finally:
            await _stop(clients)
        await load.settle(SETTLE_TIMEOUT_S)
    load.history.executions = [execution for log in logs for execution in executions(log)]
    _count(report, load.history)
    report.violations = judge(load.history)
    return report


async def _kill(meshd: MeshdProcess, rng: random.Random, *, aimed: bool) -> bool:
    """Kills meshd; returns whether a commit was in flight."""
    for _ in range(_AIM_TRIES if aimed else 1):
        meshd.freeze()
        in_flight = meshd.is_writing()
        if in_flight:
            break
        if aimed:
            meshd.thaw()
            await asyncio.sleep(rng.uniform(0.0005, 0.005))
    meshd.kill()
    return in_flight


async def _kill_at(meshd: MeshdProcess, disk: Disk, point: Point) -> None:
    """Has meshd die at a point; the load brings it there."""
    with disk.armed(point):
        await asyncio.to_thread(meshd.wait, _POINT_TIMEOUT_S)


async def _stop(clients: asyncio.Task[None]) -> None:
    clients.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await clients


def _count(report: Report, history: History) -> None:
    report.acked = sum(submit.acked for submit in history.submits)
    found = {read.task_id for read in history.reads if read.state != "NOT_FOUND"}
    report.recovered = len(report.unanswered & found)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="agentmesh-faults-") as folder:
        report = asyncio.run(run_cycles(Path(folder), arguments.cycles, arguments.seed))
    print(report)
    for violation in report.violations[:20]:
        print(f"  {violation.task_id}: {violation.rule} ({violation.detail})")
    return 1 if report.violations or report.in_flight < IN_FLIGHT_GOAL * report.cycles else 0


if __name__ == "__main__":
    sys.exit(main())
