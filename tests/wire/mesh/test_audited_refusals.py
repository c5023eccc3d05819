"""What the audit log says of calls that were allowed, and whose wish was refused: its reason, not that it was done."""

from __future__ import annotations

from agentmesh.v1 import auth_service_pb2, payload_pb2, registry_service_pb2, task_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from tests.wire.mesh.conftest import RunningMesh, refused


async def records(mesh: RunningMesh, method: str) -> list[tuple[str, bool, str]]:
    """Return object, whether it was allowed, and reason of the records of a method, the oldest first."""
    request = auth_service_pb2.ListAuditEventsRequest(namespace="default", method=method)
    events = (await mesh.operator.auth.ListAuditEvents(request)).events
    return [(event.object, event.allowed, event.reason) for event in reversed(events)]


async def test_a_task_that_exists_with_other_content(mesh: RunningMesh) -> None:
    await mesh.submit("payroll")
    assert (
        await refused(mesh.submit("payroll", payload=payload_pb2.Payload(inline=b"other"))) == "TASK_EXISTS"
    )
    await mesh.submit("payroll")
    assert await records(mesh, "SubmitTask") == [
        ("task:payroll", True, ""),
        ("task:payroll", True, "TASK_EXISTS"),
        ("task:payroll", True, ""),
    ]


async def test_a_batch_of_which_all_was_refused(mesh: RunningMesh) -> None:
    await mesh.submit("payroll")

    async def batch(*ids: str) -> None:
        specs = [task_pb2.TaskSpec(task_id=task_id, task_type="other") for task_id in ids]
        request = pb.SubmitTasksRequest(namespace="default", specs=specs)
        await mesh.operator.scheduler.SubmitTasks(request)

    await batch("payroll", "fresh")
    await batch("payroll", "payroll")
    assert await records(mesh, "SubmitTasks") == [("", True, ""), ("", True, "TASK_EXISTS")]


async def test_the_end_of_a_session_that_is_none(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    request = registry_service_pb2.DeregisterAgentRequest(agent_id="a1", session_id="none")
    call = agent.stubs.registry.DeregisterAgent(request, metadata=agent.stubs.metadata)
    assert await refused(call) == "SESSION_NOT_FOUND"
    assert await records(mesh, "DeregisterAgent") == [("agent:a1", True, "SESSION_NOT_FOUND")]
