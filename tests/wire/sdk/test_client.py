"""`Mesh` and `SyncMesh` against a scripted daemon over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest

from agentmesh import (
    AccessDenied,
    AlreadyExists,
    Mesh,
    NotFound,
    Overloaded,
    SyncMesh,
    TaskNotSucceeded,
    TooLarge,
    Unreachable,
    WaitTimeout,
    task_spec,
)
from agentmesh.calls import CALLS_AT_ONCE
from agentmesh.connection import MAX_MESSAGE_BYTES
from agentmesh.grpc_thread import grpc_loop, on_grpc_thread
from agentmesh.v1 import auth_service_pb2, error_reason_pb2
from agentmesh.v1.scheduler_service_pb2 import (
    GetTaskRequest,
    GetTaskResponse,
    ItemError,
    ListTasksResponse,
    OutputChunk,
    SubmitResult,
    SubmitTaskResponse,
    SubmitTasksResponse,
    WaitTaskResponse,
    WatchTaskResponse,
)
from agentmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from agentmesh.v1.task_pb2 import ProgressReport, Task, TaskState
from tests.wire.sdk.fake_mesh import FakeMesh

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", None)


def accepted(request: Any) -> SubmitTaskResponse:
    return SubmitTaskResponse(task=Task(namespace=request.namespace, spec=request.spec))


def ended(
    task_id: str, output: bytes = b"1", state: TaskState.ValueType = TaskState.TASK_STATE_SUCCEEDED
) -> Task:
    task = Task(state=state, generation=9)
    task.spec.task_id = task_id
    task.output.inline = output
    task.output.media_type = "application/json"
    return task


async def test_submit_fills_the_request_and_repeats_it_with_the_same_id(mesh: FakeMesh) -> None:
    mesh.answer["SubmitTask"] = accepted
    mesh.refuse_next["SubmitTask"] = [UNAVAILABLE, (grpc.StatusCode.CANCELLED, "", None)]
    async with Mesh(mesh.address) as client:
        submitted = await client.submit(
            "greeting",
            {"a": 1},
            priority="high",
            timeout_s=1.5,
            retries=0,
            labels={"k": "v"},
            strategy="round_robin",
        )
    requests = [request for method, request in mesh.calls if method == "SubmitTask"]
    assert len(requests) == 3
    assert len({request.spec.task_id for request in requests}) == 1
    spec = requests[0].spec
    assert (submitted.task_id, submitted.namespace) == (spec.task_id, "default")
    assert spec.task_id.startswith("t-")
    assert (spec.priority, spec.timeout.ToMilliseconds(), spec.retry_policy.max_retries) == (7, 1500, 0)
    assert (spec.payload.inline, spec.payload.media_type) == (b'{"a":1}', "application/json")


async def test_a_refusal_with_a_delay_is_waited_out_and_one_without_is_raised(mesh: FakeMesh) -> None:
    mesh.answer["SubmitTask"] = accepted
    mesh.refuse_next["SubmitTask"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 0.01)]
    async with Mesh(mesh.address) as client:
        await client.submit("greeting")
        mesh.refuse_next["SubmitTask"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 60.0)]
        with pytest.raises(Overloaded) as overloaded:
            await client.submit("greeting")
        assert overloaded.value.retry_after_s == 60.0
        mesh.refuse_next["SubmitTask"] = [(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED", None)]
        with pytest.raises(AccessDenied) as denied:
            await client.submit("greeting")
        assert (denied.value.reason, denied.value.code) == ("ACCESS_DENIED", "PERMISSION_DENIED")


async def test_what_gives_another_credential_each_time_is_asked_for_once(mesh: FakeMesh) -> None:
    mesh.refuse_next["IssueToken"] = mesh.refuse_next["CreateJoinToken"] = [UNAVAILABLE, UNAVAILABLE]
    async with Mesh(mesh.address) as client:
        with pytest.raises(Unreachable):
            await client.issue_token(auth_service_pb2.IssueTokenRequest())
        with pytest.raises(Unreachable):
            await client.create_join_token(auth_service_pb2.CreateJoinTokenRequest())
    assert [method for method, _ in mesh.calls] == ["IssueToken", "CreateJoinToken"]


async def test_nobody_there_is_unreachable(mesh: FakeMesh) -> None:
    mesh.stop()
    async with Mesh(mesh.address, retry_for_s=0.2) as client:
        with pytest.raises(Unreachable):
            await client.get("t")


async def test_submit_many_cuts_by_bytes_and_gives_each_item_its_result(mesh: FakeMesh) -> None:
    sizes: list[int] = []

    def take(request: Any) -> SubmitTasksResponse:
        sizes.append(request.ByteSize())
        return SubmitTasksResponse(
            results=[
                SubmitResult(
                    task_id=spec.task_id,
                    error=ItemError(reason=error_reason_pb2.ERROR_REASON_TASK_EXISTS, message="taken")
                    if spec.task_id == "n7"
                    else None,
                )
                for spec in request.specs
            ]
        )

    mesh.answer["SubmitTasks"] = take
    specs = [task_spec("t", bytes(200_000), task_id=f"n{i}") for i in range(12)]
    too_large = task_spec("t", bytes(200_000), task_id="n3x")
    too_large.payload.inline = bytes(MAX_MESSAGE_BYTES)
    specs.insert(3, too_large)
    async with Mesh(mesh.address) as client:
        results = await client.submit_many(specs)
    assert [result.task_id for result in results] == [spec.task_id for spec in specs]
    assert len(sizes) == 3
    assert max(sizes) <= MAX_MESSAGE_BYTES
    assert {result.task_id: type(result.error) for result in results if result.error} == {
        "n7": AlreadyExists,
        "n3x": TooLarge,
    }
    assert str(MAX_MESSAGE_BYTES - 1024) in str(results[3].error)


async def test_wait_outlives_a_restart_of_the_daemon(mesh: FakeMesh) -> None:
    answers = [Task(state=TaskState.TASK_STATE_RUNNING), ended("t")]
    mesh.answer["WaitTask"] = lambda request: WaitTaskResponse(task=answers.pop(0))
    mesh.refuse_next["WaitTask"] = [UNAVAILABLE, UNAVAILABLE]
    async with Mesh(mesh.address, retry_for_s=0.0) as client:
        assert await client.result("t") == 1


async def test_wait_ends_with_the_task_as_it_is_when_time_is_over(mesh: FakeMesh) -> None:
    mesh.answer["WaitTask"] = lambda request: WaitTaskResponse(task=Task(state=TaskState.TASK_STATE_QUEUED))
    async with Mesh(mesh.address) as client:
        with pytest.raises(WaitTimeout, match="QUEUED") as timeout:
            await client.wait("t", timeout_s=0.05)
    assert timeout.value.task is not None


async def test_the_result_of_a_failed_task_is_an_error_that_names_the_failure(mesh: FakeMesh) -> None:
    task = ended("t", state=TaskState.TASK_STATE_FAILED)
    task.failure.type, task.failure.message = "ValueError", "bad luck"
    mesh.answer["WaitTask"] = lambda request: WaitTaskResponse(task=task)
    async with Mesh(mesh.address) as client:
        with pytest.raises(TaskNotSucceeded, match="ValueError: bad luck"):
            await client.result("t")


async def test_watch_continues_after_a_break_without_repeating(mesh: FakeMesh) -> None:
    running = Task(state=TaskState.TASK_STATE_RUNNING, generation=3)
    first = [
        WatchTaskResponse(task=running),
        WatchTaskResponse(progress=ProgressReport(attempt=1, seq=1)),
        WatchTaskResponse(output=OutputChunk(attempt=1, seq=1, chunk=b"x")),
    ]
    rounds = [first, [*first, WatchTaskResponse(task=ended("t"))]]
    mesh.answer["WatchTask"] = lambda request: rounds.pop(0)
    mesh.refuse_next["WatchTask"] = [UNAVAILABLE]
    async with Mesh(mesh.address) as client:
        events = [event.WhichOneof("event") async for event in client.watch("t")]
    assert events == ["task", "progress", "output", "task"]
    assert not rounds


async def test_lists_go_through_all_pages(mesh: FakeMesh) -> None:
    pages = {"": "1", "1": "2", "2": ""}
    mesh.answer["ListTasks"] = lambda request: ListTasksResponse(
        tasks=[Task()] * 2, next_page_token=pages[request.page_token]
    )
    async with Mesh(mesh.address) as client:
        assert len(await client.list_tasks(limit=None)) == 6
        assert len(await client.list_tasks(limit=4)) == 4


def test_the_blocking_client_does_the_same(mesh: FakeMesh) -> None:
    mesh.answer["SubmitTask"] = accepted
    mesh.answer["GetTask"] = lambda request: GetTaskResponse(task=ended(request.task_id))
    mesh.answer["WatchTask"] = lambda request: [WatchTaskResponse(task=ended(request.task_id))]
    with SyncMesh(mesh.address, namespace="production", token=lambda: "secret") as client:
        assert client.submit("greeting", b"x").namespace == "production"
        assert client.get("t").spec.task_id == "t"
        assert [event.task.spec.task_id for event in client.watch("t")] == ["t"]
        mesh.refuse_next["GetTask"] = [(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", None)]
        with pytest.raises(NotFound, match="TASK_NOT_FOUND"):
            client.get("t")


def test_a_token_function_may_take_its_time_and_use_the_mesh(mesh: FakeMesh) -> None:
    mesh.answer["GetTask"] = lambda request: GetTaskResponse(task=ended(request.task_id))
    mesh.answer["WatchTask"] = lambda request: [WatchTaskResponse(task=ended(request.task_id))]
    with SyncMesh(mesh.address) as vault:
        asked: list[str] = []

        def token() -> str:
            asked.append(vault.get("secret").spec.task_id)  # on the gRPC thread it would wait for itself
            return "secret"

        with SyncMesh(mesh.address, token=token) as client:
            assert client.get("t").spec.task_id == "t"
            assert [event.task.spec.task_id for event in client.watch("t")] == ["t"]
    assert asked == ["secret", "secret"]


async def test_calls_beyond_a_connections_share_wait_with_their_time_not_running(mesh: FakeMesh) -> None:
    go_on = asyncio.Event()

    async def answer(_request: Any) -> GetTaskResponse:
        await go_on.wait()
        return GetTaskResponse(task=ended("t1"))

    mesh.answer["GetTask"] = answer
    async with Mesh(mesh.address) as client:
        gets = [asyncio.ensure_future(client.get("t1")) for _ in range(CALLS_AT_ONCE + 1)]
        await asyncio.to_thread(mesh.wait_until, lambda: len(mesh.calls) == CALLS_AT_ONCE)

        def get(timeout_s: float, deadline_s: float | None = None) -> Coroutine[Any, Any, GetTaskResponse]:
            return client._caller.call(
                lambda c: SchedulerServiceStub(c).GetTask,
                GetTaskRequest(task_id="t1"),
                deadline_s=deadline_s,
                timeout_s=timeout_s,
            )

        patient = asyncio.ensure_future(on_grpc_thread(get(0.05)))
        with pytest.raises(Overloaded, match="make fewer at once"):
            await on_grpc_thread(get(0.1, deadline_s=0.0))
        assert not patient.done()
        assert len(mesh.calls) == CALLS_AT_ONCE
        grpc_loop().call_soon_threadsafe(go_on.set)
        await asyncio.gather(*gets, patient)
    assert len(mesh.calls) >= CALLS_AT_ONCE + 2
