"""A daemon and its workers as processes, and a client of theirs, for the end-to-end tests."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from agentmesh import Mesh
from agentmesh.v1 import agent_pb2, task_pb2
from tests.faults.meshd_process import ChildProcess, MeshdProcess


class House:
    """A daemon and its workers."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.meshd = stack.enter_context(MeshdProcess(folder))
        self.workers: dict[str, ChildProcess] = {}

    async def open(self) -> Mesh:
        self.mesh = await self.stack.enter_async_context(
            Mesh(address=self.meshd.address, namespace="default")
        )
        return self.mesh

    def worker(self, name: str, **environment: str) -> ChildProcess:
        self.workers[name] = self.stack.enter_context(
            ChildProcess.python(
                name,
                "tests.e2e.worker_process",
                self.folder,
                AGENTMESH_ADDRESS=self.meshd.address,
                AGENTMESH_AGENT_ID=name,
                AGENTMESH_NAMESPACE="default",
                AGENTMESH_STATE_DIR=str(self.folder / f"state-{name}"),
                **environment,
            )
        )
        # At the end nobody waits for what it still runs.
        self.stack.callback(self.workers[name].kill)
        return self.workers[name]

    async def until_running(self, task_id: str) -> task_pb2.Task:
        async for event in self.mesh.watch(task_id):
            task = event.task if hasattr(event, "task") else event
            if isinstance(task, task_pb2.Task) and task.attempt.agent_id:
                return task
        raise AssertionError("the watch ended before anybody took the task")

    async def until_healthy(self, *agent_ids: str) -> None:
        """Waits until the agents' processes have come: before that a signal meets a bare interpreter."""
        async with asyncio.timeout(30):
            while True:
                healthy = await self.mesh.list_agents(health=[agent_pb2.HEALTH_HEALTHY])
                if {agent.spec.agent_id for agent in healthy} >= set(agent_ids):
                    return
                await asyncio.sleep(0.02)

    async def until_draining(self, agent_id: str) -> None:
        async with asyncio.timeout(10):
            while (await self.mesh.get_agent(agent_id)).health != agent_pb2.HEALTH_DRAINING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def until_begun(self, task_id: str) -> None:
        """Waits until a handler runs: an assignment may still be on its way."""
        async for event in self.mesh.watch(task_id):
            if event.HasField("progress") or event.task.HasField("progress"):
                return
        raise AssertionError("the watch ended before the handler began")
