"""A program that has more calls open at once than a connection carries: whatever waits leaves room for the rest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from agentmesh import Mesh
from agentmesh.v1 import task_pb2
from tests.faults.meshd_process import MeshdProcess

CALLS_PER_CONNECTION = 8
TASKS = 4 * CALLS_PER_CONNECTION


async def test_what_waits_and_watches_leaves_room_for_other_calls(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        limit = ("--max-calls-per-connection", str(CALLS_PER_CONNECTION))
        meshd = stack.enter_context(MeshdProcess(tmp_path, arguments=limit))
        mesh = await stack.enter_async_context(Mesh(address=meshd.address, namespace="default"))
        await stack.enter_async_context(asyncio.timeout(30))
        ids = [f"t{n}" for n in range(TASKS)]
        await asyncio.gather(*(mesh.submit("nobody-does-this", task_id=task_id) for task_id in ids))

        opened = [await stack.enter_async_context(aclosing(mesh.watch(task_id))) for task_id in ids]
        await asyncio.gather(*(anext(watch) for watch in opened))  # all of them are open at once
        waits = [asyncio.ensure_future(mesh.wait(task_id)) for task_id in ids]
        await asyncio.gather(*(mesh.cancel(task_id) for task_id in ids))

        ended = await asyncio.gather(*waits)
        assert {task.state for task in ended} == {task_pb2.TASK_STATE_CANCELLED}
