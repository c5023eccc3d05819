"""The recipe of docs/operating.md: every worker and meshd restarted one by one under a stream of tasks."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentmesh.v1 import task_pb2
from agentmesh.v1.registry_service_pb2 import AgentSelector
from tests.e2e.house import House
from tests.faults.meshd_process import ChildProcess, clean_environment
from tests.faults.recording_worker import TASK_TYPE, executions

WORKERS = ("w1", "w2", "w3")
WORK_S = 0.3
PAUSE_S = 0.05


class Stream:
    """Tasks submitted one after the other until it is stopped; a meshd that is away only delays it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._stopped = asyncio.Event()
        self.ids: list[str] = []

    async def run(self) -> None:
        while not self._stopped.is_set():
            self.ids.append(f"t{len(self.ids)}")
            await self._house.mesh.submit(TASK_TYPE, task_id=self.ids[-1])
            try:
                await asyncio.wait_for(self._stopped.wait(), PAUSE_S)
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._stopped.set()


async def meshctl(house: House, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshctl", "--address", house.meshd.address, *arguments),
        env=clean_environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 0, error.decode()


def recording(house: House, name: str) -> ChildProcess:
    return ChildProcess.python(
        name,
        "tests.faults.recording_worker",
        house.folder,
        str(house.folder / f"{name}.executions"),
        str(WORK_S),
        AGENTMESH_ADDRESS=house.meshd.address,
        AGENTMESH_AGENT_ID=name,
        AGENTMESH_NAMESPACE="default",
        AGENTMESH_STATE_DIR=str(house.folder / f"state-{name}"),
    )


def executed(folder: Path) -> Counter[str]:
    return Counter(each.task_id for log in folder.glob("*.executions") for each in executions(log))


@pytest.mark.timeout(150)
async def test_a_rolling_restart_loses_and_repeats_nothing(house: House) -> None:
    workers = {name: house.stack.enter_context(recording(house, name)) for name in WORKERS}
    await house.until_healthy(*workers)
    stream = Stream(house)
    streaming = asyncio.create_task(stream.run())
    house.stack.callback(streaming.cancel)
    for name, worker in workers.items():
        await meshctl(house, "drain", name, "--reason", "rolling restart", "--wait", "--timeout", "1m")
        if name == "w2":
            # The drain is a rule of the database: the new process of w2 must find itself drained.
            house.meshd.terminate()
            assert await asyncio.to_thread(house.meshd.wait, 5.0) == 0
            house.meshd.start()
        done_before = len(executions(house.folder / f"{name}.executions"))
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 10.0) == 0
        worker.start()
        await house.until_draining(name)
        await house.mesh.wait_agents_idle(AgentSelector(agent_id_pattern=name), timeout_s=0)
        assert len(executions(house.folder / f"{name}.executions")) == done_before
        await meshctl(house, "undrain", name)
    stream.stop()
    await streaming
    tasks = [await house.mesh.wait(task_id) for task_id in stream.ids]
    print(f"{len(tasks)} tasks over the restarts")
    assert {task.state for task in tasks} == {task_pb2.TASK_STATE_SUCCEEDED}
    assert {task.attempt.number for task in tasks} == {1}
    assert executed(house.folder) == Counter(stream.ids)
    assert not await house.mesh.list_drains()
