"""P9 and P12 on a disk whose fsync fails or hangs: a failure ends meshd, a hang costs nobody anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh import Mesh, MeshError
from agentmesh.errors import Overloaded
from agentmesh.grpc_thread import on_grpc_thread
from agentmesh.v1 import agent_pb2, task_pb2
from tests.faults.disk import FAIL_FSYNC, HANG_FSYNC, Disk
from tests.faults.meshd_process import ChildProcess, MeshdProcess

STORAGE_FAILED = 3
HANG_S = 6.0
"""Longer than a lease of 3.5 s with all its slack."""


class House:
    """meshd on a disk that fails on command, and a worker."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.disk = Disk(folder, folder / "data")
        self.meshd = stack.enter_context(MeshdProcess(folder, **self.disk.environment))
        stack.callback(self.disk.disarm, HANG_FSYNC)
        self.worker = stack.enter_context(
            ChildProcess.python(
                "worker",
                "tests.e2e.worker_process",
                folder,
                AGENTMESH_ADDRESS=self.meshd.address,
                AGENTMESH_AGENT_ID="worker",
                AGENTMESH_STATE_DIR=str(folder / "agent"),
            )
        )

    def mesh(self) -> Mesh:
        return Mesh(self.meshd.address, namespace="default", retry_for_s=0.0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        house = House(tmp_path, stack)
        async with house.mesh() as mesh:
            await mesh.wait((await mesh.submit("data-processing", 1, task_id="warm-up")).task_id)
        yield house


async def health_until_it_ends(address: str) -> list[int]:
    """What a watcher of meshd's health is told."""
    told: list[int] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        with suppress(grpc.aio.AioRpcError):
            while (answer := await watch.read()) is not grpc.aio.EOF:
                told.append(answer.status)
    return told


async def test_a_failed_fsync_is_the_last_thing_meshd_does(house: House) -> None:
    health = asyncio.create_task(on_grpc_thread(health_until_it_ends(house.meshd.address)))
    acked: list[str] = []
    async with house.mesh() as mesh:
        await mesh.submit("nobody-takes-this", 1, task_id="before")
        with house.disk.armed(FAIL_FSYNC):

            async def submit(number: int) -> None:
                acked.append((await mesh.submit("nobody-takes-this", 1, task_id=f"t{number}")).task_id)

            answers = await asyncio.gather(*(submit(n) for n in range(20)), return_exceptions=True)
            assert all(isinstance(answer, MeshError) for answer in answers)
            assert acked == []
            assert await asyncio.to_thread(house.meshd.wait, 10) == STORAGE_FAILED
    assert (await health)[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
    await asyncio.to_thread(house.meshd.start)
    async with house.mesh() as mesh:
        assert (await mesh.get("before")).state == task_pb2.TASK_STATE_QUEUED


async def test_a_hanging_fsync_costs_no_lease_and_everything_goes_on(house: House) -> None:
    async with house.mesh() as mesh:
        await mesh.submit("nap", str(HANG_S + 3), task_id="nap")
        async for event in mesh.watch("nap"):
            if event.HasField("progress") or event.task.HasField("progress"):
                break
        with house.disk.armed(HANG_FSYNC):
            began_s = time.monotonic()
            waiting = [asyncio.create_task(mesh.submit("data-processing", 1, task_id="waiting"))]
            while all(not each.done() for each in waiting):
                waiting.append(asyncio.create_task(mesh.submit("nobody-takes-this", 1)))
                await asyncio.wait(waiting, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            refused_s = time.monotonic() - began_s
            await asyncio.sleep(HANG_S - refused_s)  # it hangs for exactly this long
            assert not waiting[0].done()
        print(f"refused {refused_s:.2f} s after the fsync began to hang")
        assert 1.0 < refused_s < 2.0
        first, *others = await asyncio.gather(*waiting, return_exceptions=True)
        assert not isinstance(first, BaseException)
        assert {type(each) for each in others} <= {type(first), Overloaded}
        assert (await mesh.wait("waiting")).state == task_pb2.TASK_STATE_SUCCEEDED
        nap = await mesh.wait("nap")
        assert (nap.attempt.number, nap.loss_count) == (1, 0)
        assert (await mesh.get_agent("worker")).health == agent_pb2.HEALTH_HEALTHY
