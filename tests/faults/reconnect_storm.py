"""All agents' connections cut at once: `python -m tests.faults.reconnect_storm --agents 1000`.

Each agent holds one task and goes through a proxy that resets every connection in the same instant. All come back with
what they hold, and no task may be assigned again. Exits with 0 when none was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentmesh import Mesh, task_spec
from agentmesh.v1.task_pb2 import TASK_STATE_SUCCEEDED
from tests.faults.many_agents import TASK_TYPE
from tests.faults.meshd_process import MeshdProcess, clean_environment
from tests.faults.proxy import Proxy

TIMEOUT_S = 180.0
#: As an operator sets it for fleets of thousands: pings are answered by a process that 1,000 agents share here.
KEEPALIVE_MS = 10_000
_BATCH = 100


@dataclass(slots=True)
class Report:
    """What came of it."""

    agents: int
    connections_cut: int
    back_s: float
    reassigned: int
    succeeded: int

    def __str__(self) -> str:
        return (
            f"{self.connections_cut} connections of {self.agents} agents cut at once, all back after {self.back_s:.2f} s; "
            f"{self.reassigned} tasks reassigned, {self.succeeded} succeeded"
        )


async def run(folder: Path, agents: int) -> Report:
    """One storm."""
    async with contextlib.AsyncExitStack() as stack:
        meshd = stack.enter_context(MeshdProcess(folder, arguments=("--keepalive-ms", str(KEEPALIVE_MS))))
        proxy = await stack.enter_async_context(Proxy(meshd.tcp_address))
        mesh = await stack.enter_async_context(Mesh(meshd.address, namespace="default"))
        crowd = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.many_agents", str(agents), meshd.address, proxy.address),
            env=clean_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                specs = [task_spec(TASK_TYPE, task_id=f"t{number}") for number in range(agents)]
                for start in range(0, agents, _BATCH):
                    await mesh.submit_many(specs[start : start + _BATCH])
                assert (await crowd.stdout.readline()).split() == [b"holding"]
                cut = proxy.connections
                proxy.cut()
                word, back_s = (await crowd.stdout.readline()).split()
                assert word == b"back"
                crowd.stdin.write(b"\n")
                tasks = [await mesh.wait(f"t{number}") for number in range(agents)]
                await crowd.wait()
        finally:
            if crowd.returncode is None:
                crowd.kill()
                await crowd.wait()
    return Report(
        agents,
        cut,
        float(back_s),
        reassigned=sum(task.attempt.number > 1 or task.loss_count > 0 for task in tasks),
        succeeded=sum(task.state == TASK_STATE_SUCCEEDED for task in tasks),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1_000)
    agents = parser.parse_args().agents
    with tempfile.TemporaryDirectory(prefix="agentmesh-storm-") as folder:
        report = asyncio.run(run(Path(folder), agents))
    print(report)
    return 1 if report.reassigned or report.succeeded < agents or report.connections_cut < agents else 0


if __name__ == "__main__":
    sys.exit(main())
