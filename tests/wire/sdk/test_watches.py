"""Watching all agents or tasks by the SDK: what is asked for, and where it goes on after a break."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest

from agentmesh import AccessDenied, Mesh, SyncMesh, watching
from agentmesh.conditions import label_condition
from agentmesh.v1.agent_pb2 import Health
from agentmesh.v1.registry_service_pb2 import WatchAgentsResponse
from agentmesh.v1.scheduler_service_pb2 import TaskChange, WatchTaskResponse, WatchTasksResponse
from agentmesh.v1.task_pb2 import Task
from agentmesh.v1.watch_pb2 import ResetReason, WatchPosition
from tests.wire.sdk.fake_mesh import FakeMesh


def update(revision: int = 0, *, reset: int = 0, epoch: int = 1) -> WatchTasksResponse:
    position = WatchPosition(epoch=epoch, revision=revision) if revision else None
    return WatchTasksResponse(
        changes=[TaskChange(revision=revision, gone_task_id="t")],
        position=position,
        reset=reset,  # type: ignore[arg-type]
    )


async def test_a_watch_goes_on_where_it_was_and_not_from_the_middle_of_a_snapshot(mesh: FakeMesh) -> None:
    start, gap = ResetReason.RESET_REASON_START, ResetReason.RESET_REASON_EPOCH
    rounds = [
        [update(reset=start)],
        [update(reset=start), update(7), update(9)],
        [update(10), update(reset=gap)],
        [update(reset=gap), update(3, epoch=2)],
        [update(4, epoch=2)],
    ]
    asked: list[WatchPosition | None] = []

    def answer(request: Any) -> list[WatchTasksResponse]:
        position = WatchPosition()
        position.CopyFrom(request.after)
        asked.append(position if request.HasField("after") else None)
        return rounds.pop(0)

    mesh.answer["WatchTasks"] = answer
    mesh.refuse_next["WatchTasks"] = [(grpc.StatusCode.UNAVAILABLE, "", None)]
    seen: list[int] = []
    async with Mesh(mesh.address) as client:
        async for each in client.watch_tasks(task_type="work"):
            seen.append(each.position.revision)
            if each.position.epoch == 2 and each.position.revision == 4:
                break
    assert seen == [0, 0, 7, 9, 10, 0, 0, 3, 4]
    assert asked == [
        None,
        None,
        WatchPosition(epoch=1, revision=9),
        None,
        WatchPosition(epoch=2, revision=3),
    ]


async def test_the_conditions_are_those_of_the_list(mesh: FakeMesh) -> None:
    requests: list[Any] = []

    def answer(request: Any) -> list[WatchAgentsResponse]:
        requests.append(request)
        return [WatchAgentsResponse()]

    mesh.answer["WatchAgents"] = answer
    async with Mesh(mesh.address, namespace="production") as client:
        async for _ in client.watch_agents(
            any_capabilities=["gpu"],
            labels=["zone=a", label_condition("!old")],
            health=[Health.HEALTH_HEALTHY],
            text_prefix="w",
            after=WatchPosition(epoch=1, revision=2),
        ):
            break
    (request,) = requests
    assert (request.namespace, request.text_prefix, request.after.revision) == ("production", "w", 2)
    assert [condition.label for condition in request.labels] == ["zone", "old"]


async def test_a_refusal_ends_a_watch(mesh: FakeMesh) -> None:
    mesh.refuse_next["WatchAgents"] = [(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED", None)]
    async with Mesh(mesh.address) as client:
        with pytest.raises(AccessDenied):
            await anext(client.watch_agents())


def test_the_blocking_client_watches_too(mesh: FakeMesh) -> None:
    mesh.answer["WatchTasks"] = lambda request: [update(1), update(2)]
    with SyncMesh(mesh.address) as client:
        updates = client.watch_tasks()
        assert [next(updates).position.revision for _ in range(2)] == [1, 2]
        updates.close()  # type: ignore[attr-defined]  # a generator, which the interface does not promise


@pytest.fixture
def ended(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """A mesh with something to watch; is released whenever a stream is ended here."""
    mesh.answer["WatchTask"] = lambda _request: [WatchTaskResponse(task=Task(generation=1))]
    mesh.answer["WatchTasks"] = lambda _request: [update(1)]
    mesh.answer["WatchAgents"] = lambda _request: [WatchAgentsResponse()]
    count, cancel = threading.Semaphore(0), watching._Stream.cancel

    def noted(stream: watching._Stream[Any]) -> None:
        cancel(stream)
        count.release()

    monkeypatch.setattr(watching._Stream, "cancel", noted)
    return count


async def test_who_stops_watching_gives_the_place_on_the_connection_back(
    mesh: FakeMesh, ended: threading.Semaphore
) -> None:
    async with Mesh(mesh.address) as client:
        watches: tuple[Any, ...] = (client.watch("t"), client.watch_tasks(), client.watch_agents())
        for watch in watches:
            await anext(watch)
            await watch.aclose()
            assert await asyncio.to_thread(ended.acquire, timeout=10)


def test_so_does_the_blocking_client(mesh: FakeMesh, ended: threading.Semaphore) -> None:
    with SyncMesh(mesh.address) as client:
        watches: tuple[Any, ...] = (client.watch("t"), client.watch_tasks(), client.watch_agents())
        for watch in watches:
            next(watch)
            watch.close()
            assert ended.acquire(timeout=10)
