"""A backup taken under load, restored after the mesh was killed: what it must hold, and what must not come alive."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from agentmesh import Mesh, MeshError
from agentmesh.grpc_thread import on_grpc_thread
from agentmesh.v1 import agent_pb2, auth_service_pb2, payload_pb2, session_pb2, task_pb2
from tests.faults.meshd_process import ChildProcess, MeshdProcess, clean_environment
from tests.wire.mesh.conftest import FULL, HandMadeAgent, Stubs, refused

ENOUGH = 150
"""Tasks acknowledged before the backup begins, and again before the mesh is killed."""


class Load:
    """Submits one task after the other, and remembers which were acknowledged."""

    def __init__(self, mesh: Mesh) -> None:
        self.acked: list[str] = []
        self._mesh = mesh
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled."""
        number = 0
        while True:
            number += 1
            try:
                await self._mesh.submit("data-processing", {"n": number}, task_id=f"t{number}")
            except MeshError:
                continue
            self.acked.append(f"t{number}")
            self._more.set()

    async def until(self, count: int) -> None:
        """Returns when so many more were acknowledged."""
        goal = len(self.acked) + count
        while len(self.acked) < goal:
            self._more.clear()
            await self._more.wait()


class Hands:
    """An operator and an agent written by hand; everything of it runs on the gRPC thread."""

    def __init__(self, meshd: MeshdProcess) -> None:
        self._meshd = meshd
        self.agent: HandMadeAgent

    def stubs(self, token: str = "") -> Stubs:
        address = self._meshd.tcp_address if token else self._meshd.address
        options = [("grpc.use_local_subchannel_pool", 1)]
        return Stubs(grpc.aio.insecure_channel(address, options=options), token)

    async def token(self, agent_id: str) -> str:
        request = auth_service_pb2.IssueTokenRequest(
            namespace="default", agent_id=agent_id, type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["*"]
        )
        return str((await self.stubs().auth.IssueToken(request)).token.value)

    async def join_token(self, agent_id: str) -> str:
        request = auth_service_pb2.CreateJoinTokenRequest(
            namespace="default", agent_id=agent_id, type=agent_pb2.AGENT_TYPE_WORKER
        )
        request.capabilities.append("*")
        return str((await self.stubs().auth.CreateJoinToken(request)).join_token)

    async def revoke(self, token: str) -> None:
        await self.stubs().auth.RevokeToken(auth_service_pb2.RevokeTokenRequest(token=token, reason="leaked"))

    async def refusal(self, token: str) -> str:
        stubs = self.stubs(token)
        call = stubs.auth.IntrospectToken(auth_service_pb2.IntrospectTokenRequest(), metadata=stubs.metadata)
        return await refused(call)

    async def take(self, token: str, *held: bytes) -> tuple[session_pb2.Assign, list[bytes]]:
        """Come as the agent that does `by-hand`; returns what it is assigned and what it is told to drop."""
        self.agent = HandMadeAgent(self.stubs(token), "hand", FULL)
        await self.agent.register(capabilities=["by-hand"], slots=1)
        opened = await self.agent.open(
            *(session_pb2.HeldAttempt(fence=each, phase=session_pb2.HELD_PHASE_RUNNING) for each in held)
        )
        for fence in opened.drop:
            # Until then it takes its slot.
            await self.agent.send(stopped=session_pb2.Stopped(fence=fence))
        assign = (await self.agent.expect("assign")).assign
        await self.agent.send(accept=session_pb2.Accept(fence=assign.fence))
        return assign, list(opened.drop)

    async def done(self, fence: bytes, output: bytes) -> str:
        """Report a result; returns whether it is acknowledged or revoked."""
        await self.agent.send(done=session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=output)))
        while True:
            for kind in ("ack", "revoke"):
                for frame in self.agent.frames:
                    if frame.WhichOneof("frame") == kind and getattr(frame, kind).fence == fence:
                        return kind
            message = await self.agent.call.read()
            assert message is not grpc.aio.EOF
            self.agent.frames.extend(message.frames)


async def meshd(*arguments: str) -> str:
    """Run a command of meshd; it must succeed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "meshd", *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.timeout(150)
async def test_backup_under_load_and_restore(tmp_path: Path, stack: AsyncExitStack) -> None:
    daemon = stack.enter_context(MeshdProcess(tmp_path))
    hands = Hands(daemon)
    mesh = await stack.enter_async_context(Mesh(address=daemon.address, namespace="default"))
    stack.enter_context(
        ChildProcess.python(
            "worker",
            "tests.e2e.worker_process",
            tmp_path,
            AGENTMESH_ADDRESS=daemon.tcp_address,
            AGENTMESH_AGENT_ID="worker",
            AGENTMESH_NAMESPACE="default",
            AGENTMESH_STATE_DIR=str(tmp_path / "state"),
            AGENTMESH_JOIN_TOKEN=await on_grpc_thread(hands.join_token("worker")),
        )
    )
    kept, leaked, hand_token = [
        await on_grpc_thread(hands.token(name)) for name in ("kept", "leaked", "hand")
    ]
    # At the backup nobody has this one: the lost mesh hands out its first attempt, the restored one will again.
    await mesh.submit("by-hand", "", task_id="held")
    load = Load(mesh)
    clients = asyncio.create_task(load.run())
    await load.until(ENOUGH)
    before = list(load.acked)
    told = await meshd("backup", str(tmp_path / "b.db"), "--data-dir", str(daemon.data_dir))
    during = len(load.acked) - len(before)
    await load.until(ENOUGH)
    await on_grpc_thread(hands.revoke(leaked))
    first, _ = await on_grpc_thread(hands.take(hand_token))
    daemon.kill()
    clients.cancel()
    print(f"{told.strip()}; {during} tasks acknowledged meanwhile")

    told = await meshd("restore", str(tmp_path / "b.db"), "--data-dir", str(daemon.data_dir), "--replace")
    assert "what was revoked" not in told  # the old database was there to be asked
    await asyncio.to_thread(daemon.start)

    # Every task acknowledged before the backup is there and comes to its end, at a worker nobody restarted.
    tasks = [await mesh.wait(task_id, timeout_s=30) for task_id in before]
    assert {task.state for task in tasks} == {task_pb2.TASK_STATE_SUCCEEDED}
    assert {task.loss_count for task in tasks} == {0}
    for number, task in enumerate(tasks, 1):
        assert f'"n":{number}' in task.output.inline.decode().replace(" ", "")
    for token in (kept, leaked, hand_token):
        assert await on_grpc_thread(hands.refusal(token)) == "TOKEN_REVOKED"

    fresh = await on_grpc_thread(hands.token("hand"))
    second, drop = await on_grpc_thread(hands.take(fresh, first.fence))
    assert (first.task_id, first.attempt) == (second.task_id, second.attempt) == ("held", 1)
    assert second.fence != first.fence
    assert drop == [first.fence]
    assert second.fence_number > first.fence_number
    assert await on_grpc_thread(hands.done(first.fence, b"late")) == "revoke"
    assert (await mesh.get("held")).state == task_pb2.TASK_STATE_RUNNING
    assert await on_grpc_thread(hands.done(second.fence, b"right")) == "ack"
    assert (await mesh.wait("held")).output.inline == b"right"
