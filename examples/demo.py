"""The mesh at work, in one minute: `make demo`, or `python -m examples.demo`.

Starts meshd and three workers, has them analyse the standard library of the running interpreter, kills one worker at a
third of the way and meshd at two thirds, starts meshd again, and reads the mesh's records against its own books. Exits
with 0 only if nothing was lost and nothing happened twice.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agentmesh import Mesh, MeshError
from agentmesh.v1.agent_pb2 import Health
from agentmesh.v1.task_pb2 import Task
from examples.demo_account import Account, ClientLog, account_of_records, failover_s
from examples.demo_input import TASK_TYPE, Library, standard_library
from examples.demo_processes import Processes
from examples.demo_screen import Progress, progress, table

WORKERS = ("worker-1", "worker-2", "worker-3")
#: Outcomes waited for at a time; more would be idle calls.
WAITS = 64
#: How long calls keep trying while meshd is away.
PATIENCE_S = 30.0


@dataclass(slots=True)
class Kill:
    """The worker that was killed, and when."""

    agent_id: str
    at_s: float


async def main() -> int:
    print("Reading the standard library ...", flush=True)
    library = await asyncio.to_thread(standard_library)
    skipped = ", ".join(f"{count} {why}" for why, count in sorted(library.skipped.items()))
    print(
        f"{len(library.specs)} modules; {library.skipped.total()} left out{f' ({skipped})' if skipped else ''}"
    )
    with (
        tempfile.TemporaryDirectory(prefix="agentmesh-demo-") as folder,
        Processes(Path(folder)) as processes,
    ):
        processes.start_meshd()
        for agent_id in WORKERS:
            processes.start_worker(agent_id)
        try:
            async with Mesh(processes.address, namespace="default", retry_for_s=PATIENCE_S) as mesh:
                return await run(mesh, processes, library)
        except MeshError as error:
            print(f"demo: the mesh did not answer as expected: {error}", file=sys.stderr)
            for name in ("meshd", *WORKERS):
                print(f"\nThe end of the log of {name}:\n{processes.log_tail(name)}", file=sys.stderr)
            return 1


async def run(mesh: Mesh, processes: Processes, library: Library) -> int:
    """Has the work done amid the killings, then settles both accounts."""
    epoch_before = await epoch(mesh)
    started_s = time.monotonic()
    log = ClientLog()
    for result in await mesh.submit_many(library.specs):
        if result.error is not None:
            raise result.error
        log.acknowledged.add(result.task_id)
    print(f"{len(log.acknowledged)} tasks submitted, {len(WORKERS)} workers", flush=True)
    kill = await work_amid_killings(mesh, processes, library, log)
    took_s = time.monotonic() - started_s

    records = await read_records(mesh)
    for task in records:
        log.saw(task)
    killed = [agent.spec.agent_id for agent in await mesh.list_agents(health=[Health.HEALTH_LOST])]
    restarts = await epoch(mesh) - epoch_before
    by_mesh, by_client = account_of_records(records, len(log.acknowledged)), log.account()
    show(log, by_mesh, by_client, took_s)
    return verdict(by_mesh, by_client, killed, kill, restarts, failover_s(records, kill.agent_id, kill.at_s))


async def work_amid_killings(mesh: Mesh, processes: Processes, library: Library, log: ClientLog) -> Kill:
    """Collects every outcome; kills a worker at a third of them and meshd at two thirds."""
    total = len(library.specs)
    kill = Kill(agent_id="", at_s=0.0)
    may_wait = asyncio.Semaphore(WAITS)

    async def outcome(task_id: str) -> Task:
        async with may_wait:
            return await mesh.wait(task_id)

    with progress(total) as shown:
        outcomes = [asyncio.create_task(outcome(spec.task_id)) for spec in library.specs]
        try:
            for done, ended in enumerate(asyncio.as_completed(outcomes), start=1):
                log.saw(await ended)
                shown.advance(done)
                if done == total // 3:
                    kill = await kill_worker(mesh, processes, shown)
                elif done == 2 * total // 3:
                    shown.say("kill -9 of meshd, which is started again")
                    processes.kill("meshd")
                    processes.start_meshd()
        finally:
            for waiting in outcomes:
                waiting.cancel()
    return kill


async def kill_worker(mesh: Mesh, processes: Processes, shown: Progress) -> Kill:
    """Kills the worker that holds the most tasks."""
    workloads = await mesh.workload()
    busiest = max(workloads, key=lambda workload: len(workload.held))
    shown.say(f"kill -9 of {busiest.agent_id}, which holds {len(busiest.held)} tasks")
    at_s = time.time()
    processes.kill(busiest.agent_id)
    return Kill(busiest.agent_id, at_s)


async def read_records(mesh: Mesh) -> list[Task]:
    """Every task of the mesh with all its attempts and its result."""
    may_read = asyncio.Semaphore(WAITS)

    async def record(task_id: str) -> Task:
        async with may_read:
            return await mesh.get(task_id)

    listed = await mesh.list_tasks(task_type=TASK_TYPE, limit=None)
    return list(await asyncio.gather(*(record(task.spec.task_id) for task in listed)))


async def epoch(mesh: Mesh) -> int:
    """How often the daemon that owns the namespace was started, as it counts itself."""
    (namespace,) = (await mesh.status()).namespaces
    return namespace.epoch


def show(log: ClientLog, by_mesh: Account, by_client: Account, took_s: float) -> None:
    results = log.results()
    totals = ("lines", "functions", "classes", "imports")
    table(
        f"The standard library, analysed in {took_s:.1f} s",
        ("modules", *totals),
        [(len(results), *(sum(result[what] for result in results.values()) for what in totals))],
    )
    functions = [
        (result["most_complex"], task_id) for task_id, result in results.items() if result["most_complex"]
    ]
    functions.sort(key=lambda found: (-found[0]["complexity"], found[1]))
    table(
        "The ten most complex functions, one per module",
        ("complexity", "function", "module"),
        [
            (
                function["complexity"],
                function["name"],
                f"{task_id.removeprefix('stdlib/')}:{function['line']}",
            )
            for function, task_id in functions[:10]
        ],
    )
    table(
        "Counted twice",
        ("", "tasks", "succeeded", "lost", "repeated outcomes"),
        [
            (who, account.tasks, account.succeeded, account.lost, account.repeated)
            for who, account in (("by the mesh's records", by_mesh), ("by this client", by_client))
        ],
    )


def verdict(
    by_mesh: Account, by_client: Account, killed: list[str], kill: Kill, restarts: int, failover: float | None
) -> int:
    """Prints the last line from what was counted; returns 0 only if it is as promised."""
    lost = max(by_mesh.lost, by_client.lost)
    repeated = max(by_mesh.repeated, by_client.repeated)
    wrong = [
        text
        for text, holds in (
            ("the two accounts differ", by_mesh == by_client),
            ("not every task succeeded", by_client.succeeded == by_client.tasks > 0),
            ("tasks were lost", lost == 0),
            ("outcomes were repeated", repeated == 0),
            (f"the mesh counts {killed} as lost, killed was {kill.agent_id}", killed == [kill.agent_id]),
            (f"the mesh counts {restarts} restarts of meshd", restarts == 1),
            ("the killed worker held no task, so there was no failover", failover is not None),
        )
        if not holds
    ]
    print()
    for text in wrong:
        print(f"NOT AS PROMISED: {text}")
    agents = "agent" if len(killed) == 1 else "agents"
    print(
        f"demo: {by_client.tasks} tasks, {min(by_mesh.succeeded, by_client.succeeded)} succeeded, {lost} lost, "
        f"{repeated} repeated outcomes, {len(killed)} {agents} killed, "
        f"{restarts} meshd restart{'' if restarts == 1 else 's'}, "
        f"failover {'unknown' if failover is None else f'{failover:.2f} s'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
