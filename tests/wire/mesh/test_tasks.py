"""Tasks over the wire: taken once, run by hand-made agents, refused with a reason."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import grpc
import grpc.aio
import pytest

from agentmesh.v1 import (
    auth_service_pb2,
    error_reason_pb2,
    payload_pb2,
    requirements_pb2,
    session_pb2,
    task_pb2,
)
from agentmesh.v1 import (
    scheduler_service_pb2 as pb,
)
from meshd.domain.limits import MAX_BATCH_ITEMS, MAX_MESSAGE_BYTES
from meshd.wire import page_token
from tests.wire.mesh.conftest import RunningMesh, namespace_service_pb2, refused


async def test_a_task_runs_to_its_result(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    assign = (await agent.expect("assign")).assign
    assert (assign.task_id, assign.attempt, assign.payload.inline) == ("t1", 1, b"in")
    await agent.send(accept=session_pb2.Accept(fence=assign.fence))
    await agent.send(done=session_pb2.Done(fence=assign.fence, output=payload_pb2.Payload(inline=b"out")))
    assert (await agent.expect("ack")).ack.fence == assign.fence
    task = await mesh.wait("t1")
    assert task.state == task_pb2.TASK_STATE_SUCCEEDED
    assert task.output.inline == b"out"
    assert task.attempt.agent_id == "a1"


async def test_the_minimal_profile_completes_a_task(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", features=())
    await mesh.submit("t1")
    assign = (await agent.expect("assign")).assign
    await agent.send(done=session_pb2.Done(fence=assign.fence))
    await agent.expect("ack")
    assert (await mesh.wait("t1")).state == task_pb2.TASK_STATE_SUCCEEDED


async def test_a_stale_fence_is_refused_and_changes_nothing(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    assign = (await agent.expect("assign")).assign
    await agent.send(done=session_pb2.Done(fence=assign.fence[:-1] + b"\x07"))
    await agent.expect("revoke")
    assert (await mesh.wait("t1", 0)).state == task_pb2.TASK_STATE_ASSIGNED


async def test_a_result_is_sent_again_after_a_break_and_counts_once(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    agent.call.cancel()
    pending = session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RESULT_PENDING)
    opened = await agent.open(pending)
    assert list(opened.keep) == [fence]
    await agent.send(done=session_pb2.Done(fence=fence))
    await agent.expect("ack")
    task = await mesh.wait("t1")
    assert (task.state, task.attempt.number) == (task_pb2.TASK_STATE_SUCCEEDED, 1)


async def test_the_same_id_is_the_same_task(mesh: RunningMesh) -> None:
    first = await mesh.submit("t1")
    spec = task_pb2.TaskSpec(task_id="t1", task_type="work", payload=payload_pb2.Payload(inline=b"in"))
    again = await mesh.operator.scheduler.SubmitTask(pb.SubmitTaskRequest(namespace="default", spec=spec))
    assert again.existed
    assert again.task.submit_time == first.submit_time
    spec.timeout.seconds = 5  # a deadline is no part of the content
    assert (
        await mesh.operator.scheduler.SubmitTask(pb.SubmitTaskRequest(namespace="default", spec=spec))
    ).existed
    spec.payload.inline = b"other"
    call = mesh.operator.scheduler.SubmitTask(pb.SubmitTaskRequest(namespace="default", spec=spec))
    assert await refused(call) == "TASK_EXISTS"


async def test_a_batch_has_a_result_for_each(mesh: RunningMesh) -> None:
    specs = [
        task_pb2.TaskSpec(task_id="t1", task_type="work"),
        task_pb2.TaskSpec(task_type="work"),
        task_pb2.TaskSpec(task_id="bad id", task_type="work"),
        task_pb2.TaskSpec(task_id="t1", task_type="work"),
        task_pb2.TaskSpec(task_id="t1", task_type="other"),
    ]
    request = pb.SubmitTasksRequest(namespace="default", specs=specs)
    results = (await mesh.operator.scheduler.SubmitTasks(request)).results
    assert [r.existed for r in results] == [False, False, False, True, False]
    assert results[1].task_id
    assert results[2].error.reason == error_reason_pb2.ERROR_REASON_INVALID_ARGUMENT
    assert results[4].error.reason == error_reason_pb2.ERROR_REASON_TASK_EXISTS


@pytest.mark.parametrize(
    "specs",
    [
        [task_pb2.TaskSpec(task_id=f"{n:04}" + "i" * 124, task_type="other") for n in range(5_000)],
        [task_pb2.TaskSpec(task_id="\N{SNOWMAN}" * 66, task_type="w") for _ in range(5_000)],
        [task_pb2.TaskSpec(task_type="\N{SNOWMAN}" * 66) for _ in range(5_000)],
        [task_pb2.TaskSpec(task_type="work", task_id="\N{SNOWMAN}" * 300_000)],
    ],
    ids=("other-content", "no-ids", "no-types", "one-long-id"),
)
async def test_whatever_is_refused_the_answer_is_a_message(
    mesh: RunningMesh, specs: list[task_pb2.TaskSpec]
) -> None:
    if specs[0].task_type == "other":
        first = [task_pb2.TaskSpec(task_id=spec.task_id, task_type="work") for spec in specs]
        request = pb.SubmitTasksRequest(namespace="default", specs=first)
        assert not any(
            r.HasField("error") for r in (await mesh.operator.scheduler.SubmitTasks(request)).results
        )
    request = pb.SubmitTasksRequest(namespace="default", specs=specs)
    assert request.ByteSize() <= MAX_MESSAGE_BYTES
    answer = await mesh.operator.scheduler.SubmitTasks(request)
    assert answer.ByteSize() <= MAX_MESSAGE_BYTES
    assert len(answer.results) == len(specs)
    assert all(result.error.reason and result.error.message for result in answer.results)
    if specs[0].task_type == "other":
        assert [result.task_id for result in answer.results] == [spec.task_id for spec in specs]
        assert (
            answer.results[-1].error.message == "a task of this id has other content; choose another task id"
        )


async def test_a_batch_of_more_than_may_come_at_once_is_refused_as_a_whole(mesh: RunningMesh) -> None:
    request = pb.SubmitTasksRequest(namespace="default")
    for _ in range(MAX_BATCH_ITEMS + 1):
        request.specs.add(task_type="work")
    assert await refused(mesh.operator.scheduler.SubmitTasks(request)) == "INVALID_ARGUMENT"
    assert not mesh.parts.mesh.namespaces["default"].tasks


async def test_reports_of_a_stream_are_audited_by_their_number(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=1)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(done=session_pb2.Done(fence=fence))
    await agent.expect("ack")
    request = auth_service_pb2.ListAuditEventsRequest(namespace="default", method="Work")
    reported, opened = (await mesh.operator.auth.ListAuditEvents(request)).events
    assert (reported.subject, reported.count) == ("agent:default/a1", 1)
    assert reported.object_digest == sha256(fence).digest()
    assert opened.object == "agent:a1"


async def test_a_batch_with_few_refusals_says_all_about_them(mesh: RunningMesh) -> None:
    specs = [
        task_pb2.TaskSpec(task_id="bad id", task_type="work"),
        *[task_pb2.TaskSpec(task_type="work")] * 4_999,
    ]
    request = pb.SubmitTasksRequest(namespace="default", specs=specs)
    results = (await mesh.operator.scheduler.SubmitTasks(request)).results
    assert results[0].error.message.endswith("0-9 . _ : / -")
    assert not any(result.HasField("error") for result in results[1:])


async def test_a_payload_too_large_names_both_numbers(mesh: RunningMesh) -> None:
    spec = task_pb2.TaskSpec(task_type="work", payload=payload_pb2.Payload(inline=b"x" * (256 * 1024 + 1)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.operator.scheduler.SubmitTask(pb.SubmitTaskRequest(namespace="default", spec=spec))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "262145" in str(caught.value.details())
    assert "262144" in str(caught.value.details())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (task_pb2.TaskSpec(task_type=""), "FIELD_REQUIRED"),
        (task_pb2.TaskSpec(task_type="No Capitals"), "INVALID_ARGUMENT"),
        (task_pb2.TaskSpec(task_type="work", task_id="-"), "INVALID_ARGUMENT"),
        (task_pb2.TaskSpec(task_type="work", priority=10), "INVALID_ARGUMENT"),
        (task_pb2.TaskSpec(task_type="work", strategy=99), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
        (task_pb2.TaskSpec(task_type="work", on_lost=99), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
        (task_pb2.TaskSpec(task_type="work", max_losses=0), "INVALID_ARGUMENT"),
        (task_pb2.TaskSpec(task_type="work", labels={"": "v"}), "INVALID_ARGUMENT"),
    ],
    ids=("type-absent", "type", "id", "priority", "strategy", "on-lost", "losses", "labels"),
)
async def test_a_wrong_field_is_refused(mesh: RunningMesh, spec: task_pb2.TaskSpec, reason: str) -> None:
    request = pb.SubmitTaskRequest(namespace="default", spec=spec)
    assert await refused(mesh.operator.scheduler.SubmitTask(request)) == reason


async def test_cancel_of_a_running_task_is_pushed_and_acknowledged(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(accept=session_pb2.Accept(fence=fence))
    request = pb.CancelTaskRequest(namespace="default", task_id="t1")
    task = (await mesh.operator.scheduler.CancelTask(request)).task
    assert task.HasField("cancel_request_time")
    assert (await agent.expect("cancel")).cancel.fence == fence
    await agent.send(stopped=session_pb2.Stopped(fence=fence))
    await agent.expect("ack")
    assert (await mesh.wait("t1")).state == task_pb2.TASK_STATE_CANCELLED


async def test_a_watcher_sees_every_change_progress_and_output(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    watch = mesh.operator.scheduler.WatchTask(pb.WatchTaskRequest(namespace="default", task_id="t1"))
    assert (await watch.read()).task.state == task_pb2.TASK_STATE_ASSIGNED
    await agent.send(progress=session_pb2.Progress(fence=fence, seq=1, fraction=0.5, message="half"))
    assert (await watch.read()).progress.message == "half"
    await agent.send(output=session_pb2.Output(fence=fence, seq=1, chunk=b"piece"))
    assert (await watch.read()).output.chunk == b"piece"
    await agent.send(done=session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=b"end")))
    last = (await watch.read()).task
    assert (last.state, last.output.inline) == (task_pb2.TASK_STATE_SUCCEEDED, b"end")
    assert await watch.read() is grpc.aio.EOF


async def test_why_a_task_waits_is_explained_agent_by_agent(mesh: RunningMesh) -> None:
    await mesh.agent("able", slots=1)
    await mesh.agent("other", capabilities=["else"])
    await mesh.submit("t1")
    await mesh.submit("t2")
    await mesh.submit("t3")
    request = pb.ExplainTaskRequest(namespace="default", task_id="t3")
    explained = await mesh.operator.scheduler.ExplainTask(request)
    assert explained.queue_position == 1
    verdicts = {v.agent_id: v.verdict for v in explained.verdicts}
    assert verdicts == {"able": pb.VERDICT_NO_FREE_SLOT, "other": pb.VERDICT_CAPABILITY_MISSING}
    assert "able in default can, but its slot is in use" in explained.summary


async def test_labels_and_preferences_choose_the_agent(mesh: RunningMesh) -> None:
    small = await mesh.agent("small", labels={"memory-gib": "8"})
    large = await mesh.agent("large", labels={"memory-gib": "64"})
    condition = requirements_pb2.LabelCondition(
        label="memory-gib", operator=requirements_pb2.LABEL_OPERATOR_GREATER_THAN, values=["16"]
    )
    for n in range(2):
        await mesh.submit(f"t{n}", requirements=requirements_pb2.Requirements(required_labels=[condition]))
        assert (await large.expect("assign")).assign.task_id == f"t{n}"
    preferred = requirements_pb2.LabelCondition(
        label="memory-gib", operator=requirements_pb2.LABEL_OPERATOR_IN, values=["8"]
    )
    await mesh.submit("t3", requirements=requirements_pb2.Requirements(preferred_labels=[preferred]))
    assert (await small.expect("assign")).assign.task_id == "t3"


async def test_lists_are_paged_and_filtered(mesh: RunningMesh) -> None:
    for n in range(5):
        await mesh.submit(f"t{n}")
    request = pb.ListTasksRequest(namespace="default", page_size=2)
    seen: list[str] = []
    while True:
        page = await mesh.operator.scheduler.ListTasks(request)
        seen += [task.spec.task_id for task in page.tasks]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    request = pb.ListTasksRequest(namespace="default", task_type="other", page_token=request.page_token)
    assert await refused(mesh.operator.scheduler.ListTasks(request)) == "INVALID_PAGE_TOKEN"
    request = pb.ListTasksRequest(namespace="default", page_size=-1)
    assert await refused(mesh.operator.scheduler.ListTasks(request)) == "INVALID_ARGUMENT"


async def test_waiting_returns_the_task_as_it_is_when_the_time_is_over(mesh: RunningMesh) -> None:
    await mesh.submit("t1")
    assert (await mesh.wait("t1", 0)).state == task_pb2.TASK_STATE_QUEUED
    waiting = asyncio.create_task(mesh.wait("t1"))
    await mesh.operator.scheduler.CancelTask(pb.CancelTaskRequest(namespace="default", task_id="t1"))
    assert (await waiting).state == task_pb2.TASK_STATE_CANCELLED


async def test_nobody_watches_after_a_wait_and_a_watch(mesh: RunningMesh) -> None:
    await mesh.submit("t1")
    await mesh.wait("t1", seconds=0)
    request = pb.WatchTaskRequest(namespace="default", task_id="t1")
    watch = mesh.operator.scheduler.WatchTask(request)
    await watch.read()
    assert mesh.parts.mesh.hub.size == 1, "the watch, and not the wait"
    cancel = pb.CancelTaskRequest(namespace="default", task_id="t1")
    await mesh.operator.scheduler.CancelTask(cancel)
    async with asyncio.timeout(10):
        while await watch.read() is not grpc.aio.EOF:
            pass
    assert mesh.parts.mesh.hub.size == 0
    assert not mesh.parts.mesh.hub.active


async def test_an_operator_must_name_the_namespace_of_one_task(mesh: RunningMesh) -> None:
    call = mesh.operator.scheduler.GetTask(pb.GetTaskRequest(task_id="t1"))
    assert await refused(call) == "FIELD_REQUIRED"
    call = mesh.operator.scheduler.GetTask(pb.GetTaskRequest(namespace="nowhere", task_id="t1"))
    assert await refused(call) == "NAMESPACE_NOT_FOUND"
    call = mesh.operator.scheduler.GetTask(pb.GetTaskRequest(namespace="default", task_id="t1"))
    assert await refused(call) == "TASK_NOT_FOUND"


async def test_a_worker_sees_payloads_only_of_its_own_tasks(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=1)
    other = mesh.stubs(await mesh.token("a2"))
    await mesh.submit("t1")
    await agent.expect("assign")
    request = pb.GetTaskRequest(task_id="t1")
    own = await agent.stubs.scheduler.GetTask(request, metadata=agent.stubs.metadata)
    assert own.task.spec.payload.inline == b"in"
    foreign = await other.scheduler.GetTask(request, metadata=other.metadata)
    assert not foreign.task.spec.payload.inline


async def test_another_namespaces_token_reaches_nothing_here(mesh: RunningMesh) -> None:
    await mesh.operator.namespaces.CreateNamespace(namespace_service_pb2.CreateNamespaceRequest(name="team"))
    await mesh.submit("t1")
    stranger = mesh.stubs(await mesh.token("o1", "ORCHESTRATOR", "team"))
    own = stranger.scheduler.GetTask(pb.GetTaskRequest(task_id="t1"), metadata=stranger.metadata)
    assert await refused(own) == "TASK_NOT_FOUND"
    named = stranger.scheduler.CancelTask(
        pb.CancelTaskRequest(namespace="default", task_id="t1"), metadata=stranger.metadata
    )
    assert await refused(named) == "NAMESPACE_MISMATCH"
    assert not (await stranger.scheduler.ListTasks(pb.ListTasksRequest(), metadata=stranger.metadata)).tasks


async def test_a_forged_page_token_is_refused_like_any_other_mistake(mesh: RunningMesh) -> None:
    conditions = repr(("default", (), "", ""))
    for position in ("x", str(2**63)):
        forged = page_token.encode("tasks", conditions, position)
        request = pb.ListTasksRequest(namespace="default", page_token=forged)
        assert await refused(mesh.operator.scheduler.ListTasks(request)) == "INVALID_PAGE_TOKEN"
    conditions = repr(("", "", "", False))
    audit_request = auth_service_pb2.ListAuditEventsRequest(
        page_token=page_token.encode("audit", conditions, "x")
    )
    assert await refused(mesh.operator.auth.ListAuditEvents(audit_request)) == "INVALID_PAGE_TOKEN"
