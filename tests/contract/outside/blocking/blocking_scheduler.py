"""SchedulerService by blocking stubs: a client submits and waits, an agent of the minimal profile works."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc
import pytest

from agentmesh.v1 import (
    agent_pb2,
    payload_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    session_pb2,
    task_pb2,
)
from tests.contract.outside.conftest import Metadata

Stub = scheduler_service_pb2_grpc.SchedulerServiceStub
WorkRequest = scheduler_service_pb2.WorkRequest


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


def spec(task_id: str, task_type: str = "counting") -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(
        task_id=task_id, task_type=task_type, payload=payload_pb2.Payload(inline=b"one two")
    )


def submit(grpc_stub: Stub, orchestrator: Metadata, task_id: str) -> scheduler_service_pb2.SubmitTaskResponse:
    request = scheduler_service_pb2.SubmitTaskRequest(spec=spec(task_id))
    return grpc_stub.SubmitTask(request, metadata=orchestrator, timeout=10)


@pytest.fixture
def agent_stream(
    grpc_channel: grpc.Channel, grpc_stub: Stub, worker: Metadata
) -> Iterator[tuple[queue.SimpleQueue[WorkRequest | None], Iterator[session_pb2.MeshFrame]]]:
    """An open Work stream: what goes up, and what comes down."""
    registry = registry_service_pb2_grpc.RegistryServiceStub(grpc_channel)
    described = agent_pb2.AgentSpec(
        agent_id="worker-1", type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["counting"], slots=1
    )
    session = registry.RegisterAgent(
        registry_service_pb2.RegisterAgentRequest(spec=described, session_key=b"fedcba9876543210"),
        metadata=worker,
        timeout=10,
    )
    up: queue.SimpleQueue[WorkRequest | None] = queue.SimpleQueue()
    opening = session_pb2.Open(
        agent_id="worker-1",
        session_id=session.session_id,
        resume_token=session.resume_token,
        stream_seq=1,
        protocol=1,
    )
    up.put(WorkRequest(frames=[session_pb2.AgentFrame(open=opening)]))
    answers = grpc_stub.Work(iter(up.get, None), metadata=worker, timeout=30)
    yield up, (frame for answer in answers for frame in answer.frames)
    up.put(WorkRequest(frames=[session_pb2.AgentFrame(bye=session_pb2.Bye())]))
    up.put(None)
    answers.cancel()


def test_a_task_is_worked_on_and_its_result_read(
    grpc_stub: Stub,
    orchestrator: Metadata,
    agent_stream: tuple[queue.SimpleQueue[WorkRequest | None], Iterator[session_pb2.MeshFrame]],
) -> None:
    up, down = agent_stream
    assert next(down).HasField("opened")
    submit(grpc_stub, orchestrator, "t1")
    assign = next(frame for frame in down if frame.HasField("assign")).assign
    assert (assign.task_id, assign.payload.inline) == ("t1", b"one two")
    done = session_pb2.Done(fence=assign.fence, output=payload_pb2.Payload(inline=b"2"))
    up.put(WorkRequest(frames=[session_pb2.AgentFrame(done=done)]))
    assert next(frame for frame in down if frame.HasField("ack")).ack.fence == assign.fence
    wait = scheduler_service_pb2.WaitTaskRequest(task_id="t1", view=scheduler_service_pb2.TASK_VIEW_FULL)
    wait.timeout.seconds = 10
    task = grpc_stub.WaitTask(wait, metadata=orchestrator, timeout=15).task
    assert (task.state, task.output.inline) == (task_pb2.TASK_STATE_SUCCEEDED, b"2")
    watched = list(
        grpc_stub.WatchTask(
            scheduler_service_pb2.WatchTaskRequest(task_id="t1"), metadata=orchestrator, timeout=10
        )
    )
    assert watched[-1].task.state == task_pb2.TASK_STATE_SUCCEEDED
    workload = grpc_stub.GetWorkload(
        scheduler_service_pb2.GetWorkloadRequest(agent_id="worker-1"), metadata=orchestrator, timeout=10
    )
    assert workload.workloads[0].succeeded_count >= 1


def test_a_repeated_submit_is_the_same_task(grpc_stub: Stub, orchestrator: Metadata) -> None:
    first, second = (submit(grpc_stub, orchestrator, "twice") for _ in range(2))
    assert (first.existed, second.existed) == (False, True)
    assert first.task.submit_time == second.task.submit_time


def test_tasks_are_submitted_together_listed_explained_and_cancelled(
    grpc_stub: Stub, orchestrator: Metadata
) -> None:
    specs = [spec(f"many-{n}", task_type="nobody-can") for n in range(3)]
    request = scheduler_service_pb2.SubmitTasksRequest(specs=[*specs, spec("no type", task_type="")])
    results = grpc_stub.SubmitTasks(request, metadata=orchestrator, timeout=10).results
    assert [result.HasField("error") for result in results] == [False, False, False, True]
    listed: list[str] = []
    token = ""
    while True:
        page = grpc_stub.ListTasks(
            scheduler_service_pb2.ListTasksRequest(task_type="nobody-can", page_size=2, page_token=token),
            metadata=orchestrator,
            timeout=10,
        )
        listed += [task.spec.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert sorted(listed) == [f"many-{n}" for n in range(3)]
    why = grpc_stub.ExplainTask(
        scheduler_service_pb2.ExplainTaskRequest(task_id="many-0"), metadata=orchestrator, timeout=10
    )
    assert why.task.state == task_pb2.TASK_STATE_QUEUED
    assert why.summary
    for n in range(3):
        task = grpc_stub.CancelTask(
            scheduler_service_pb2.CancelTaskRequest(task_id=f"many-{n}"), metadata=orchestrator, timeout=10
        ).task
        assert task.state == task_pb2.TASK_STATE_CANCELLED
    read = grpc_stub.GetTask(
        scheduler_service_pb2.GetTaskRequest(task_id="many-2"), metadata=orchestrator, timeout=10
    )
    assert read.task.outcome_reason
