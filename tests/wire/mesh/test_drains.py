"""Drains over the wire: started, listed, waited for, lifted, and refused where they make no sense."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, requirements_pb2, session_pb2, task_pb2
from agentmesh.v1 import registry_service_pb2 as pb
from tests.wire.mesh.conftest import RunningMesh, refused, running_mesh

EVERY_FEATURE = (1, 2, 3, 4, 5, 6)


def selector(pattern: str = "", **more: Any) -> pb.AgentSelector:
    return pb.AgentSelector(agent_id_pattern=pattern, **more)


async def drain(mesh: RunningMesh, pattern: str, **more: Any) -> pb.DrainAgentsResponse:
    request = pb.DrainAgentsRequest(namespace="default", selector=selector(pattern), **more)
    answer: pb.DrainAgentsResponse = await mesh.operator.registry.DrainAgents(request)
    return answer


async def health_of(mesh: RunningMesh, agent_id: str) -> agent_pb2.Health.ValueType:
    request = pb.GetAgentRequest(namespace="default", agent_id=agent_id)
    agent: agent_pb2.Agent = (await mesh.operator.registry.GetAgent(request)).agent
    assert agent.free_slots == (0 if agent.health == agent_pb2.HEALTH_DRAINING else 2 - agent.held_attempts)
    return agent.health


async def test_a_drain_is_told_to_the_agent_and_waited_for(mesh: RunningMesh) -> None:
    agent = await mesh.agent("w1", EVERY_FEATURE)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    answer = await drain(mesh, "w*", reason="new kernel")
    assert answer.changed
    assert (answer.drain.creator, answer.drain.reason) == ("operator:local", "new kernel")
    (busy,) = answer.agents.busy_agents
    assert (busy.agent_id, busy.held_attempts, list(busy.task_ids)) == ("w1", 1, ["t1"])
    assert "new kernel" in (await agent.expect("drain")).drain.reason
    assert await health_of(mesh, "w1") == agent_pb2.HEALTH_DRAINING
    request = pb.WaitAgentsIdleRequest(namespace="default", selector=selector("w*"))
    request.timeout.FromMilliseconds(50)
    assert (await mesh.operator.registry.WaitAgentsIdle(request)).agents.held_attempts == 1
    request.timeout.FromSeconds(10)
    waiting = asyncio.ensure_future(mesh.operator.registry.WaitAgentsIdle(request))
    await agent.send(done=session_pb2.Done(fence=fence))
    agents = (await waiting).agents
    assert (agents.agent_count, agents.held_attempts, list(agents.busy_agents)) == (1, 0, [])
    assert (await drain(mesh, "w*", lift=True)).changed
    assert await health_of(mesh, "w1") == agent_pb2.HEALTH_HEALTHY
    await mesh.submit("t2")
    await agent.expect("assign")


async def test_hand_over_gives_the_task_to_another(mesh: RunningMesh) -> None:
    agent = await mesh.agent("w1", EVERY_FEATURE)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    other = await mesh.agent("x1")
    request = pb.DrainAgentsRequest(namespace="default", selector=selector("w1"), hand_over=True)
    request.hand_over_grace.FromSeconds(60)
    await mesh.operator.registry.DrainAgents(request)
    cancel = (await agent.expect("cancel")).cancel
    assert (cancel.reason, cancel.grace.seconds) == (session_pb2.CANCEL_REASON_HAND_OVER, 60)
    await agent.send(stopped=session_pb2.Stopped(fence=fence))
    assign = (await other.expect("assign")).assign
    assert (assign.task_id, assign.attempt) == ("t1", 2)
    await other.send(done=session_pb2.Done(fence=assign.fence))
    task = await mesh.wait("t1")
    assert (task.state, task.loss_count, task.failure_count) == (task_pb2.TASK_STATE_SUCCEEDED, 0, 0)


async def test_drains_in_force_are_listed_page_by_page(mesh: RunningMesh) -> None:
    await mesh.agent("w1")
    for pattern in ("a*", "w*", "c*"):
        await drain(mesh, pattern)
    await drain(mesh, "c*", lift=True)
    first = await mesh.operator.registry.ListDrains(pb.ListDrainsRequest(page_size=1))
    second = await mesh.operator.registry.ListDrains(
        pb.ListDrainsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert not second.next_page_token
    found = {d.drain.selector.agent_id_pattern: d.agent_count for d in (*first.drains, *second.drains)}
    assert found == {"a*": 0, "w*": 1}


async def test_lifting_names_the_drains_that_still_hold(mesh: RunningMesh) -> None:
    await mesh.agent("w1")
    wide = await drain(mesh, "w*")
    nothing = await drain(mesh, "w1", lift=True)
    assert not nothing.changed
    assert not nothing.HasField("drain")
    assert list(nothing.other_drain_ids) == [wide.drain.drain_id]


async def test_a_label_and_a_type_select_too(mesh: RunningMesh) -> None:
    await mesh.agent("w1", labels={"zone": "a"})
    await mesh.agent("w2", labels={"zone": "b"})
    zone = requirements_pb2.LabelCondition(
        label="zone", operator=requirements_pb2.LABEL_OPERATOR_IN, values=["a"]
    )
    request = pb.DrainAgentsRequest(
        namespace="default", selector=selector(labels=[zone], type=agent_pb2.AGENT_TYPE_WORKER)
    )
    answer = await mesh.operator.registry.DrainAgents(request)
    assert answer.drain.selector == request.selector
    assert await health_of(mesh, "w1") == agent_pb2.HEALTH_DRAINING
    assert await health_of(mesh, "w2") == agent_pb2.HEALTH_HEALTHY


async def test_drains_are_refused_where_they_make_no_sense(mesh: RunningMesh) -> None:
    drain_agents = mesh.operator.registry.DrainAgents
    for request, reason in (
        (pb.DrainAgentsRequest(namespace="default"), "FIELD_REQUIRED"),
        (pb.DrainAgentsRequest(selector=selector("*")), "FIELD_REQUIRED"),
        (pb.DrainAgentsRequest(namespace="nowhere", selector=selector("*")), "NAMESPACE_NOT_FOUND"),
        (pb.DrainAgentsRequest(namespace="default", selector=selector("w[12]")), "INVALID_ARGUMENT"),
        (pb.DrainAgentsRequest(namespace="default", selector=selector("W1")), "INVALID_ARGUMENT"),
        (
            pb.DrainAgentsRequest(namespace="default", selector=selector("*", type=77)),
            "INVALID_ARGUMENT",
        ),
        (
            pb.DrainAgentsRequest(namespace="default", selector=selector("*"), reason="x" * 257),
            "INVALID_ARGUMENT",
        ),
        (
            pb.DrainAgentsRequest(namespace="default", selector=selector("*"), lift=True, hand_over=True),
            "INVALID_ARGUMENT",
        ),
    ):
        assert await refused(drain_agents(request)) == reason, request
    many = requirements_pb2.LabelCondition(
        label="zone", operator=requirements_pb2.LABEL_OPERATOR_IN, values=["x" * 250] * 20
    )
    request = pb.DrainAgentsRequest(namespace="default", selector=selector(labels=[many]))
    assert await refused(drain_agents(request)) == "INVALID_ARGUMENT"
    wait = pb.WaitAgentsIdleRequest(namespace="default", selector=selector("*"))
    wait.timeout.FromSeconds(61)
    assert await refused(mesh.operator.registry.WaitAgentsIdle(wait)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("kind", "reason"), [("WORKER", "ACCESS_DENIED"), ("ORCHESTRATOR", "")])
async def test_orchestrators_drain_in_their_own_namespace(mesh: RunningMesh, kind: str, reason: str) -> None:
    stubs = mesh.stubs(await mesh.token("o1", kind))
    request = pb.DrainAgentsRequest(selector=selector("*"))
    call = stubs.registry.DrainAgents(request, metadata=stubs.metadata)
    if reason:
        assert await refused(call) == reason
    else:
        assert (await call).drain.creator == "agent:default/o1"
    request.namespace = "other"
    call = stubs.registry.DrainAgents(request, metadata=stubs.metadata)
    assert await refused(call) == "NAMESPACE_MISMATCH"


async def test_drains_are_audited(mesh: RunningMesh) -> None:
    answer = await drain(mesh, "w*")
    await drain(mesh, "w*", lift=True)
    request = auth_service_pb2.ListAuditEventsRequest(namespace="default", method="DrainAgents")
    events = (await mesh.operator.auth.ListAuditEvents(request)).events
    drain_id = answer.drain.drain_id
    assert [event.object for event in events] == [f"drain:{drain_id} lifted", f"drain:{drain_id}"]


async def test_a_drain_outlives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        await mesh.agent("w1", EVERY_FEATURE)
        await drain(mesh, "w*", reason="new kernel")
        await drain(mesh, "x*")
        await drain(mesh, "x*", lift=True)
    async with running_mesh(tmp_path) as mesh:
        agent = await mesh.agent("w1", EVERY_FEATURE)
        assert "new kernel" in (await agent.expect("drain")).drain.reason
        assert await health_of(mesh, "w1") == agent_pb2.HEALTH_DRAINING
        listed = await mesh.operator.registry.ListDrains(pb.ListDrainsRequest())
        assert [d.drain.selector.agent_id_pattern for d in listed.drains] == ["w*"]


async def test_a_session_that_survives_the_daemon_is_drained_and_handed_over_as_before(
    tmp_path: Path,
) -> None:
    async with running_mesh(tmp_path) as mesh:
        agent = await mesh.agent("w1", EVERY_FEATURE)
        await mesh.submit("t1")
        fence = (await agent.expect("assign")).assign.fence
        request = pb.DrainAgentsRequest(namespace="default", selector=selector("w1"), hand_over=True)
        request.hand_over_grace.FromSeconds(60)
        await mesh.operator.registry.DrainAgents(request)
        await agent.expect("cancel")
    async with running_mesh(tmp_path) as mesh:
        agent.stubs = mesh.stubs(await mesh.token("w1"))
        opened = await agent.open(session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_STOPPING))
        assert list(opened.keep) == [fence]
        assert (await agent.expect("cancel")).cancel.reason == session_pb2.CANCEL_REASON_HAND_OVER
        await agent.expect("drain")
        assert await health_of(mesh, "w1") == agent_pb2.HEALTH_DRAINING
        await agent.send(stopped=session_pb2.Stopped(fence=fence))
        await agent.expect("ack")
        task = await mesh.wait("t1", 0)
        assert (task.state, task.loss_count, task.failure_count) == (task_pb2.TASK_STATE_QUEUED, 0, 0)
        agent.call.cancel()
