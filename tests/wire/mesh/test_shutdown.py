"""The end: calls under way are answered or told to come again, never INTERNAL and never not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from agentmesh.v1 import payload_pb2, session_pb2, task_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd import daemon
from meshd.engine.commits import Commits
from meshd.engine.known_tasks import KnownTasks
from meshd.engine.mesh import Mesh
from tests.wire.mesh.conftest import RunningMesh, reason_of


def submit(mesh: RunningMesh) -> Awaitable[Any]:
    spec = task_pb2.TaskSpec(task_id="new", task_type="work", payload=payload_pb2.Payload(inline=b"in"))
    request = pb.SubmitTaskRequest(namespace="default", spec=spec)
    return mesh.operator.scheduler.SubmitTask(request)  # type: ignore[no-any-return]


def cancel(mesh: RunningMesh) -> Awaitable[Any]:
    request = pb.CancelTaskRequest(namespace="default", task_id="old")
    return mesh.operator.scheduler.CancelTask(request)  # type: ignore[no-any-return]


def get(mesh: RunningMesh) -> Awaitable[Any]:
    request = pb.GetTaskRequest(namespace="default", task_id="old")
    return mesh.operator.scheduler.GetTask(request)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "owner", "held_up_in"),
    [
        (submit, KnownTasks, "find"),
        (cancel, Mesh, "find_task"),
        (get, Mesh, "find_task"),
        (get, Commits, "settled"),
    ],
)
async def test_a_call_that_is_held_up_until_all_is_closed_is_told_to_come_again(
    mesh: RunningMesh,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[RunningMesh], Awaitable[Any]],
    owner: type,
    held_up_in: str,
) -> None:
    await mesh.submit("old")
    method, close = getattr(owner, held_up_in), Commits.close
    reached, closed = asyncio.Event(), asyncio.Event()

    async def held(*given: Any) -> Any:
        found = await method(*given)
        if not reached.is_set():
            reached.set()
            await closed.wait()
        return found

    async def closing(commits: Commits) -> None:
        await close(commits)
        closed.set()

    monkeypatch.setattr(owner, held_up_in, held)
    monkeypatch.setattr(Commits, "close", closing)
    called = asyncio.ensure_future(call(mesh))
    async with asyncio.timeout(10):
        await reached.wait()
        down = asyncio.create_task(daemon._take_down(mesh.parts))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called
        assert await down
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == "SHUTTING_DOWN"


async def test_agents_are_told_that_meshd_goes_down_before_their_streams_end(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    async with asyncio.timeout(10):
        down = asyncio.create_task(daemon._take_down(mesh.parts))
        told = (await agent.expect("go_away")).go_away
        assert told.reason == session_pb2.GO_AWAY_REASON_SHUTTING_DOWN
        assert await agent.call.read() is grpc.aio.EOF
        assert await down
