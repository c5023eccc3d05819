"""What the audit log says of reports: those that ended an attempt, and nothing of those that could not."""

from __future__ import annotations

import secrets
from hashlib import sha256

from agentmesh.v1 import auth_service_pb2, scheduler_service_pb2, session_pb2
from tests.wire.mesh.conftest import RunningMesh


async def records(mesh: RunningMesh) -> list[tuple[int, bytes]]:
    """Return count and digest of what the audit log has of Work streams, but for their opening."""
    request = auth_service_pb2.ListAuditEventsRequest(namespace="default", method="Work")
    events = (await mesh.operator.auth.ListAuditEvents(request)).events
    return [(event.count, event.object_digest) for event in events if not event.object]


async def test_only_reports_with_a_held_fence_are_recorded(mesh: RunningMesh) -> None:
    agent = await mesh.agent("busy", slots=2)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    for _ in range(20):
        await agent.send(stopped=session_pb2.Stopped(fence=secrets.token_bytes(12)))
        await agent.expect("revoke")
    assert await records(mesh) == []
    reports = [
        session_pb2.AgentFrame(fail=session_pb2.Fail(fence=secrets.token_bytes(12))),
        session_pb2.AgentFrame(done=session_pb2.Done(fence=fence)),
        session_pb2.AgentFrame(done=session_pb2.Done(fence=fence)),
    ]
    await agent.call.write(scheduler_service_pb2.WorkRequest(frames=reports))
    await agent.expect("ack")
    await agent.send(done=session_pb2.Done(fence=fence))
    await agent.expect("revoke")
    assert await records(mesh) == [(1, sha256(fence).digest())]
