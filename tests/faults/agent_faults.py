"""Agents that die, freeze or lose their network, and a meshd that freezes, again and again, under steady load.

`python -m tests.faults.agent_faults kill --count 200`; also freeze, partition (a network namespace unplugged), up, down,
both (a connection held in one or both directions by a proxy) and freeze-meshd. Up to three agents of six suffer at a
time. What a victim held must be assigned elsewhere within the bound; a frozen meshd must reassign nothing. The oracle
judges what clients and workers saw. Exits with 0 when it finds nothing and the p99 is within the bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh import Mesh
from agentmesh.v1 import agent_pb2, auth_service_pb2, task_pb2
from tests.faults.load import Load
from tests.faults.meshd_process import ChildProcess, MeshdProcess, free_port
from tests.faults.namespaces import Host
from tests.faults.oracle import Violation, judge
from tests.faults.proxy import BOTH, Direction, Proxy
from tests.faults.recording_worker import executions

AGENTS = 6
TOGETHER = 3
OPEN_TASKS = 18
TASK_S = 1.0
#: An agent that hears nothing still reports: its work is moved only when it is not done before the agent hangs up.
DEAF_TASK_S = 5.0
REASSIGN_TIMEOUT_S = 20.0
SETTLE_TIMEOUT_S = 60.0
#: Promise P4: from the fault to the next assignment.
BOUNDS_S = {"kill": 1.0, "freeze": 5.0, "partition": 5.0, "up": 5.0, "down": 5.0, "both": 5.0}
FREEZE_MESHD = "freeze-meshd"
FREEZE_MESHD_S = (0.5, 6.0)
KINDS = (*BOUNDS_S, FREEZE_MESHD)
_HELD = (task_pb2.TASK_STATE_ASSIGNED, task_pb2.TASK_STATE_RUNNING)


@dataclass(slots=True)
class Report:
    """What came of it."""

    kind: str
    faults: int = 0
    reassigned_s: list[float] = field(default_factory=list)
    #: Held tasks that nobody else got in time, and tasks that were taken from an agent when meshd froze.
    forgotten: int = 0
    losses: int = 0
    acked: int = 0
    violations: list[Violation] = field(default_factory=list)

    def percentile_s(self, percent: int) -> float:
        ordered = sorted(self.reassigned_s)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0

    def __str__(self) -> str:
        times = (
            f"{len(self.reassigned_s)} tasks assigned elsewhere after p50 {self.percentile_s(50):.2f} s, "
            f"p99 {self.percentile_s(99):.2f} s, at most {self.percentile_s(100):.2f} s; {self.forgotten} forgotten"
        )
        if self.kind == FREEZE_MESHD:
            times = f"{self.losses} tasks taken from their agents"
        return f"{self.kind}: {self.faults} times, {self.acked} tasks; {times}; {len(self.violations)} violations"


@dataclass(slots=True)
class Victim:
    """An agent, what is done to it and how that is undone."""

    agent_id: str
    log: Path
    hurt: Callable[[], None]
    heal: Callable[[], None]


class Faults:
    """A mesh whose agents suffer one kind of fault."""

    def __init__(self, folder: Path, kind: str, seed: int, stack: contextlib.AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._rng = random.Random(seed)
        self.report = Report(kind)
        extra = ("--listen", f"0.0.0.0:{free_port()}", "--insecure") if kind == "partition" else ()
        self.meshd = stack.enter_context(MeshdProcess(folder, arguments=extra))
        self._port = (extra[1] if extra else self.meshd.tcp_address).rpartition(":")[2]
        self.load = Load(self.meshd.address, seed)
        self.victims: list[Victim] = []

    async def add_agent(self, number: int) -> None:
        """Start an agent, reached as the kind of fault asks for."""
        kind, agent_id = self.report.kind, f"agent-{number}"
        command = [sys.executable, "-m", "tests.faults.recording_worker"]
        environment = {"AGENTMESH_ADDRESS": self.meshd.address}
        proxy: Proxy | None = None
        host: Host | None = None
        if kind == "partition":
            host = self._stack.enter_context(Host(number))
            command = [*host.inside, *command]
            environment = {"AGENTMESH_ADDRESS": f"{host.gateway}:{self._port}", "AGENTMESH_INSECURE": "1"}
        elif kind in ("up", "down", "both"):
            proxy = await self._stack.enter_async_context(Proxy(self.meshd.tcp_address))
            environment = {"AGENTMESH_ADDRESS": proxy.address}
        if host is not None or proxy is not None:
            environment["AGENTMESH_JOIN_TOKEN"] = await self._join_token(agent_id)
        environment |= {"AGENTMESH_AGENT_ID": agent_id, "AGENTMESH_STATE_DIR": str(self._folder / "agents")}
        log = self._folder / f"executions-{number}.jsonl"
        task_s = DEAF_TASK_S if kind == "down" else TASK_S
        process = ChildProcess(agent_id, [*command, str(log), str(task_s)], self._folder, environment)
        self._stack.enter_context(process)
        hurt, heal = _ways(kind, process, proxy, host)
        self.victims.append(Victim(agent_id, log, hurt, heal))

    async def hurt_agents(self, count: int) -> None:
        """Have the agents suffer so many times, several at once."""
        queue = list(self.victims)
        left = iter(range(count))

        async def one_after_the_other() -> None:
            async with Mesh(self.meshd.address, namespace="default") as mesh:
                for _ in left:
                    victim = queue.pop(0)
                    await self._hurt(mesh, victim)
                    queue.append(victim)

        await asyncio.gather(*(one_after_the_other() for _ in range(min(TOGETHER, count))))

    async def freeze_meshd(self, count: int) -> None:
        """Freeze and thaw meshd so many times."""
        for _ in range(count):
            await asyncio.sleep(self._rng.uniform(0.2, 1.5))
            self.meshd.freeze()
            await asyncio.sleep(self._rng.uniform(*FREEZE_MESHD_S))
            self.meshd.thaw()
            self.report.faults += 1

    async def _hurt(self, mesh: Mesh, victim: Victim) -> None:
        while not await self._held(mesh, victim):  # noqa: ASYNC110 - the mesh is asked, nobody tells
            await asyncio.sleep(0.02)
        await asyncio.sleep(self._rng.uniform(0.0, TASK_S / 2))
        began_ms = time.time() * 1000
        victim.hurt()
        held = await self._held(mesh, victim)
        try:
            await asyncio.gather(*(self._moved(mesh, task, began_ms) for task in held))
        finally:
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            victim.heal()
        self.report.faults += 1

    async def _held(self, mesh: Mesh, victim: Victim) -> list[task_pb2.Task]:
        return await mesh.list_tasks(states=_HELD, agent_id=victim.agent_id, limit=None)

    async def _moved(self, mesh: Mesh, held: task_pb2.Task, began_ms: float) -> None:
        """Wait until a task is assigned again, or was over before the fault."""
        try:
            async with asyncio.timeout(REASSIGN_TIMEOUT_S):
                async for event in mesh.watch(held.spec.task_id):
                    attempt = event.task.attempt
                    if attempt.number > held.attempt.number:
                        self.report.reassigned_s.append(
                            (attempt.assign_time.ToMilliseconds() - began_ms) / 1000
                        )
                        return
        except TimeoutError:
            self.report.forgotten += 1

    async def _join_token(self, agent_id: str) -> str:
        async with Mesh(self.meshd.address, namespace="default") as mesh:
            request = auth_service_pb2.CreateJoinTokenRequest(
                namespace="default", agent_id=agent_id, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["*"]
            )
            return (await mesh.create_join_token(request)).join_token


def _ways(
    kind: str, process: ChildProcess, proxy: Proxy | None, host: Host | None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """How an agent is hurt and healed."""
    if host is not None:
        return host.unplug, host.plug
    if proxy is not None:
        directions = BOTH if kind == "both" else (Direction(kind),)
        return lambda: proxy.hold(directions), proxy.let_go
    if kind == "freeze":
        return process.freeze, process.thaw
    return process.kill, process.start


async def run(folder: Path, kind: str, count: int, seed: int) -> Report:
    """Does it `count` times; returns what came of it."""
    async with contextlib.AsyncExitStack() as stack:
        faults = Faults(folder, kind, seed, stack)
        report = faults.report
        for number in range(AGENTS):
            await faults.add_agent(number)
        clients = asyncio.create_task(faults.load.run_steadily(OPEN_TASKS))
        try:
            await (faults.freeze_meshd(count) if kind == FREEZE_MESHD else faults.hurt_agents(count))
        finally:
            clients.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clients
        await faults.load.settle(SETTLE_TIMEOUT_S)
        async with Mesh(faults.meshd.address, namespace="default") as mesh:
            report.losses = sum(task.loss_count for task in await mesh.list_tasks(limit=None))
    history = faults.load.history
    history.executions = [each for victim in faults.victims for each in executions(victim.log)]
    report.acked = sum(submit.acked for submit in history.submits)
    report.violations = judge(history)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="agentmesh-faults-") as folder:
        report = asyncio.run(run(Path(folder), arguments.kind, arguments.count, arguments.seed))
    print(report)
    for violation in report.violations[:20]:
        print(f"  {violation.task_id}: {violation.rule} ({violation.detail})")
    late = report.percentile_s(99) > BOUNDS_S.get(arguments.kind, 0.0) and arguments.kind != FREEZE_MESHD
    taken = report.losses if arguments.kind == FREEZE_MESHD else 0
    return 1 if report.violations or report.forgotten or late or taken else 0


if __name__ == "__main__":
    sys.exit(main())
