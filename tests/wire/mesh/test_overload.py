"""A mesh that has more calls than it can work on: what is refused, how, and what goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from agentmesh.v1 import namespace_service_pb2, session_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd.config import Settings
from meshd.wire.admission import ONE_IN
from tests.wire.mesh.conftest import RunningMesh, reason_of

pytestmark = pytest.mark.anyio
LIMIT = Settings().max_calls_per_connection
FLOOD = 100_000
"""Open calls that the core is made to report."""


@pytest.fixture
def flooded(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> RunningMesh:
    """A mesh that believes in a flood: its loop counts as busy however idle the tests leave it."""
    monkeypatch.setattr("meshd.wire.admission.IDLE_SHARE", -1.0)
    return mesh


async def in_a_row(call: Any, request: Any) -> list[Any]:
    """Make as many calls as have one among them that may be refused."""
    return list(await asyncio.gather(*(call(request) for _ in range(ONE_IN)), return_exceptions=True))


async def test_a_refused_call_says_when_to_come_back_and_is_counted(flooded: RunningMesh) -> None:
    await flooded.submit("t1")
    flooded.parts.admission.look(FLOOD)
    request = pb.GetTaskRequest(namespace="default", task_id="t1")
    results = await in_a_row(flooded.operator.scheduler.GetTask, request)
    (refusal,) = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert (refusal.code(), reason_of(refusal)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    trailing: Any = refusal.trailing_metadata()
    details = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"]).details
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in details)
    assert retry.retry_delay.ToMilliseconds() > 0
    page = (await asyncio.to_thread(flooded.metrics.page)).decode()
    assert 'meshd_calls_refused_total{reason="overloaded"} 1.0' in page
    assert 'meshd_calls_handled_total{code="RESOURCE_EXHAUSTED",method="GetTask"} 1.0' in page
    assert f"meshd_calls_waiting {float(flooded.parts.admission.waiting)}" in page


async def test_agents_come_beat_and_work_while_submits_are_refused(flooded: RunningMesh) -> None:
    agent = await flooded.agent("a1")
    await flooded.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    flooded.parts.admission.look(FLOOD)
    submit = pb.SubmitTaskRequest(namespace="default")
    submit.spec.task_id, submit.spec.task_type = "t2", "work"
    results = await in_a_row(flooded.operator.scheduler.SubmitTask, submit)
    assert [reason_of(r) for r in results if isinstance(r, grpc.aio.AioRpcError)] == ["OVERLOADED"]
    await agent.send(beat=session_pb2.Beat(seq=1))
    await agent.expect("lease_ack")
    await agent.send(done=session_pb2.Done(fence=fence))
    await agent.expect("ack")
    for n in range(4):
        newcomer = await flooded.agent(f"new-{n}")
        await newcomer.send(beat=session_pb2.Beat(seq=1))
    assert flooded.parts.admission.waiting > 0


async def test_what_the_core_counts_as_open_is_what_is_under_way(mesh: RunningMesh) -> None:
    async def until_equal(count: int) -> None:
        async with asyncio.timeout(10):
            while (mesh.parts.open_calls(), mesh.parts.admission.in_work) != (count, count):
                await mesh.operator.namespaces.ListNamespaces(namespace_service_pb2.ListNamespacesRequest())

    await mesh.submit("t1")
    await until_equal(0)
    waits = [asyncio.create_task(mesh.wait("t1")) for _ in range(3)]
    await until_equal(3)
    await mesh.agent("a1")
    await until_equal(4)
    for wait in waits:
        wait.cancel()
    await until_equal(1)


async def test_calls_beyond_what_a_connection_carries_wait_and_none_fails(mesh: RunningMesh) -> None:
    await mesh.submit("t1")
    stubs = mesh.stubs()
    request = pb.GetTaskRequest(namespace="default", task_id="t1")
    most_open = 0

    async def caller() -> None:
        nonlocal most_open
        for _ in range(3):
            await stubs.scheduler.GetTask(request)
            most_open = max(most_open, mesh.parts.open_calls())

    await asyncio.gather(*(caller() for _ in range(4 * LIMIT)))
    assert 1 < most_open <= LIMIT
