"""Payloads that no message carries: refused when they come, and no trap for agents when they are there already."""

from __future__ import annotations

import grpc.aio
import pytest

from agentmesh.v1 import error_reason_pb2, payload_pb2, requirements_pb2, session_pb2, task_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd.domain.limits import MAX_MESSAGE_BYTES
from tests.wire.mesh.conftest import FULL, HandMadeAgent, RunningMesh, reason_of, refused

LARGE = payload_pb2.Payload(inline=b"x", media_type="m" * 1_000_000)


async def small(mesh: RunningMesh, features: tuple[int, ...] = FULL) -> HandMadeAgent:
    """Return a connected agent that receives no more than 600 KiB at once."""
    agent = HandMadeAgent(mesh.stubs(await mesh.token("a1")), "a1", features)
    agent.max_inbound_bytes = 600 * 1024
    await agent.register(slots=1)
    await agent.open()
    return agent


def large_requirements() -> requirements_pb2.Requirements:
    """Requirements as large as they may be, which every agent meets."""
    conditions = [
        requirements_pb2.LabelCondition(
            label=f"{n:02}" + "l" * 61,
            operator=requirements_pb2.LABEL_OPERATOR_NOT_IN,
            values=[f"{value:02}" + "v" * 254 for value in range(32)],
        )
        for n in range(16)
    ]
    return requirements_pb2.Requirements(required_labels=conditions, preferred_labels=conditions)


async def test_a_task_with_all_that_it_may_have_is_returned_in_one_message(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=1)
    largest = payload_pb2.Payload(
        inline=bytes(256 * 1024),
        media_type="m" * 255,
        metadata={f"{n:02}" + "k" * 254: "v" * 256 for n in range(16)},
    )
    policy = task_pb2.RetryPolicy(max_retries=100, multiplier=1)
    policy.initial_backoff.nanos = 1_000_000
    await mesh.submit(
        "t1",
        payload=largest,
        requirements=large_requirements(),
        labels={f"{n:02}" + "l" * 61: "v" * 256 for n in range(32)},
        retry_policy=policy,
    )
    words = "\N{OLD ITALIC LETTER A}" * 4096
    for _ in range(33):
        fence = (await agent.expect("assign")).assign.fence
        await agent.send(fail=session_pb2.Fail(fence=fence, type=words, message=words, retryable=True))
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(done=session_pb2.Done(fence=fence, output=largest))
    await agent.expect("ack")
    await mesh.wait("t1")
    answer = await mesh.operator.scheduler.GetTask(pb.GetTaskRequest(namespace="default", task_id="t1"))
    assert len(answer.task.past_attempts) == 32
    assert (answer.task.spec.payload, answer.task.output) == (largest, largest)
    assert answer.ByteSize() <= MAX_MESSAGE_BYTES
    failure = answer.task.past_attempts[0].failure
    assert len(failure.type.encode()) <= 128
    assert 4000 < len(failure.message.encode()) <= 4096
    assert failure.message.endswith("\N{OLD ITALIC LETTER A}\N{HORIZONTAL ELLIPSIS}")


async def test_the_workload_of_an_agent_with_large_tasks_is_a_message(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=10)
    for _ in range(10):
        await mesh.submit(requirements=large_requirements())
        await agent.expect("assign")
    answer = await mesh.operator.scheduler.GetWorkload(pb.GetWorkloadRequest(namespace="default"))
    assert answer.ByteSize() <= MAX_MESSAGE_BYTES
    assert answer.workloads[0].held
    assert answer.workloads[0].free_slots == 0


async def test_of_a_batch_only_the_item_is_refused_that_does_not_fit(mesh: RunningMesh) -> None:
    request = pb.SubmitTaskRequest(
        namespace="default", spec=task_pb2.TaskSpec(task_type="work", payload=LARGE)
    )
    assert await refused(mesh.operator.scheduler.SubmitTask(request)) == "INVALID_ARGUMENT"
    specs = [
        task_pb2.TaskSpec(task_type="work"),
        task_pb2.TaskSpec(task_type="work", payload=LARGE),
        task_pb2.TaskSpec(task_type="work"),
    ]
    batch = pb.SubmitTasksRequest(namespace="default", specs=specs)
    results = (await mesh.operator.scheduler.SubmitTasks(batch)).results
    assert [result.error.reason for result in results] == [
        error_reason_pb2.ERROR_REASON_UNSPECIFIED,
        error_reason_pb2.ERROR_REASON_INVALID_ARGUMENT,
        error_reason_pb2.ERROR_REASON_UNSPECIFIED,
    ]


@pytest.mark.parametrize(
    "result",
    [
        LARGE,
        payload_pb2.Payload(inline=bytes(256 * 1024 + 1)),
        payload_pb2.Payload(ref=payload_pb2.PayloadRef(size_bytes=1)),
    ],
    ids=("media-type", "bytes", "ref"),
)
async def test_a_result_that_does_not_fit_ends_the_stream_and_a_failure_is_taken_instead(
    mesh: RunningMesh, result: payload_pb2.Payload
) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(done=session_pb2.Done(fence=fence, output=result))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await agent.expect("ack")
    assert reason_of(ended.value) in ("TOO_LARGE", "INVALID_ARGUMENT")
    await agent.open(session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RESULT_PENDING))
    failure = session_pb2.Fail(fence=fence, type="InvalidResult", message="too large", retryable=False)
    await agent.send(fail=failure)
    await agent.expect("ack")
    assert (await mesh.wait("t1")).failure.type == "InvalidResult"


@pytest.mark.parametrize("features", [FULL, ()], ids=("full", "minimal"))
async def test_a_task_from_before_that_fits_into_no_message_fails_and_its_agent_works_on(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch, features: tuple[int, ...]
) -> None:
    with monkeypatch.context() as before:
        before.setattr("meshd.wire.codec.payloads.MAX_MEDIA_TYPE_BYTES", 2**20)
        before.setattr("meshd.wire.codec.payloads.MAX_PAYLOAD_BYTES", 2**20)
        await mesh.submit("old", payload=LARGE)
    await mesh.submit("new")
    agent = await small(mesh, features)
    assign = (await agent.expect("assign")).assign
    assert assign.task_id == "new"
    await agent.send(done=session_pb2.Done(fence=assign.fence))
    await agent.expect("ack")
    old = (
        await mesh.operator.scheduler.WaitTask(
            pb.WaitTaskRequest(namespace="default", task_id="old", view=pb.TASK_VIEW_BASIC)
        )
    ).task
    assert (old.state, old.outcome_reason) == (
        task_pb2.TASK_STATE_FAILED,
        task_pb2.OUTCOME_REASON_NOT_RETRYABLE,
    )
    assert (old.failure.type, old.attempt.number) == ("PayloadTooLarge", 1)
    assert "1000007 bytes" in old.failure.message


async def test_a_message_beyond_the_limit_is_not_even_received(mesh: RunningMesh) -> None:
    payload = payload_pb2.Payload(inline=bytes(250 * 1024))
    specs = [task_pb2.TaskSpec(task_id=f"t{n}", task_type="work", payload=payload) for n in range(5)]
    request = pb.SubmitTasksRequest(namespace="default", specs=specs[:4])
    answer = await mesh.operator.scheduler.SubmitTasks(request)
    assert not any(result.HasField("error") for result in answer.results)
    request.specs.append(specs[4])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.operator.scheduler.SubmitTasks(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
