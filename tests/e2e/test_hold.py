"""After a restart of meshd, agents with the SDK and agents written by hand come back to what they held.

FULL_FAULTS=1: 10 of each and 20 s without a daemon; otherwise 2 of each and 4 s.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from agentmesh import Mesh
from agentmesh.grpc_thread import on_grpc_thread, submit
from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    payload_pb2,
    session_pb2,
    task_pb2,
)
from tests.faults.meshd_process import ChildProcess, MeshdProcess
from tests.wire.mesh.conftest import HandMadeAgent, Stubs

FULL = bool(os.environ.get("FULL_FAULTS"))
EACH = 10 if FULL else 2
AWAY_S = 20.0 if FULL else 4.0
LOCAL = [("grpc.use_local_subchannel_pool", 1)]


async def by_hand(address: str, name: str, back: asyncio.Event) -> None:
    """An agent of the minimal profile: takes one task, loses the daemon, comes back, reports."""
    operator = Stubs(grpc.aio.insecure_channel(address, options=LOCAL))
    request = auth_service_pb2.IssueTokenRequest(
        namespace="default", agent_id=name, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["*"]
    )
    token = (await operator.auth.IssueToken(request)).token.value
    agent = HandMadeAgent(Stubs(grpc.aio.insecure_channel(address, options=LOCAL), token), name, ())
    await agent.register(capabilities=["by-hand"], slots=1)
    await agent.open()
    fence = (await agent.expect("assign")).assign.fence
    await back.wait()
    held = session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RUNNING)
    while True:
        # A channel of its own for every try: gRPC's own backoff may wait longer than the hold.
        agent.stubs = Stubs(grpc.aio.insecure_channel(address, options=LOCAL), token)
        try:
            opened = await agent.open(held)
            break
        except (grpc.aio.AioRpcError, AssertionError, asyncio.InvalidStateError):
            await asyncio.sleep(0.2)
    assert list(opened.keep) == [fence]
    await agent.send(done=session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=b"1")))
    await agent.expect("ack")


@pytest.mark.timeout(180)
async def test_everybody_is_back_within_the_hold(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        meshd = stack.enter_context(MeshdProcess(tmp_path))
        mesh = await stack.enter_async_context(Mesh(address=meshd.address, namespace="default"))
        for n in range(EACH):
            stack.enter_context(
                ChildProcess.python(
                    f"sdk-{n}",
                    "tests.e2e.worker_process",
                    tmp_path,
                    AGENTMESH_ADDRESS=meshd.address,
                    AGENTMESH_AGENT_ID=f"sdk-{n}",
                    AGENTMESH_NAMESPACE="default",
                    AGENTMESH_STATE_DIR=str(tmp_path / f"state-{n}"),
                )
            )
        back = asyncio.Event()
        hands = [asyncio.wrap_future(submit(by_hand(meshd.address, f"hand-{n}", back))) for n in range(EACH)]
        ids = [f"s{n}" for n in range(EACH)] + [f"h{n}" for n in range(EACH)]
        for n in range(EACH):
            await mesh.submit("nap", str(AWAY_S + 8), task_id=f"s{n}")
            await mesh.submit("by-hand", "", task_id=f"h{n}")
        await _until_assigned(mesh, ids)
        meshd.kill()
        await asyncio.sleep(AWAY_S)  # the daemon is away for exactly this long
        meshd.start()
        await on_grpc_thread(_set(back))
        await asyncio.gather(*hands)
        tasks = [await mesh.wait(task_id) for task_id in ids]
        assert {task.state for task in tasks} == {task_pb2.TASK_STATE_SUCCEEDED}
        assert [task.attempt.number for task in tasks] == [1] * len(ids)


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _until_assigned(mesh: Mesh, ids: list[str]) -> None:
    for task_id in ids:
        async for event in mesh.watch(task_id):
            if event.task.attempt.agent_id:
                break
