"""Agents over the wire: registered, found, superseded, revoked."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import grpc
import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, scheduler_service_pb2, session_pb2, task_pb2
from agentmesh.v1 import registry_service_pb2 as pb
from meshd.store.sqlite import SqliteStore
from meshd.wire.services.sessions import SessionStreams
from tests.wire.mesh.conftest import RunningMesh, reason_of, refused


async def test_an_agent_is_found_by_what_it_can_do(mesh: RunningMesh) -> None:
    await mesh.agent("a1", capabilities=["work", "gpu"])
    await mesh.agent("a2", capabilities=["work"])
    request = pb.ListAgentsRequest(capabilities=["gpu"], health=[agent_pb2.HEALTH_HEALTHY])
    (agent,) = (await mesh.operator.registry.ListAgents(request)).agents
    assert (agent.spec.agent_id, agent.free_slots, agent.namespace) == ("a1", 2, "default")


async def test_the_namespace_of_the_mesh_itself_has_no_agents_and_takes_no_tasks(mesh: RunningMesh) -> None:
    agent = agent_pb2.AgentSpec(agent_id="a1", type=agent_pb2.AGENT_TYPE_WORKER)
    task = task_pb2.TaskSpec(task_type="t")
    registry, scheduler = mesh.operator.registry, mesh.operator.scheduler
    for call in (
        registry.DeclareAgent(pb.DeclareAgentRequest(namespace="_mesh", spec=agent)),
        registry.RegisterAgent(pb.RegisterAgentRequest(namespace="_mesh", spec=agent, session_key=bytes(16))),
        scheduler.SubmitTask(scheduler_service_pb2.SubmitTaskRequest(namespace="_mesh", spec=task)),
        scheduler.SubmitTasks(scheduler_service_pb2.SubmitTasksRequest(namespace="_mesh", specs=[task])),
    ):
        assert await refused(call) == "INVALID_ARGUMENT"
    assert not (await registry.ListAgents(pb.ListAgentsRequest(namespace="_mesh"))).agents


async def test_agents_are_paged_in_order(mesh: RunningMesh) -> None:
    for name in ("c", "a", "b"):
        spec = agent_pb2.AgentSpec(agent_id=name, type=agent_pb2.AGENT_TYPE_WORKER)
        await mesh.operator.registry.DeclareAgent(pb.DeclareAgentRequest(namespace="default", spec=spec))
    first = await mesh.operator.registry.ListAgents(pb.ListAgentsRequest(page_size=2))
    second = await mesh.operator.registry.ListAgents(
        pb.ListAgentsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [a.spec.agent_id for a in (*first.agents, *second.agents)] == ["a", "b", "c"]
    assert not second.next_page_token


async def test_workloads_are_paged_in_order(mesh: RunningMesh) -> None:
    for name in ("c", "a", "b"):
        await mesh.agent(name)
    ask = mesh.operator.scheduler.GetWorkload
    first = await ask(scheduler_service_pb2.GetWorkloadRequest(page_size=2))
    second = await ask(
        scheduler_service_pb2.GetWorkloadRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [w.agent_id for w in first.workloads] == ["a", "b"]
    assert [w.agent_id for w in second.workloads] == ["c"]
    assert not second.next_page_token
    (one,) = (await ask(scheduler_service_pb2.GetWorkloadRequest(agent_id="b"))).workloads
    assert one.agent_id == "b"


async def test_what_was_declared_stays_where_the_process_says_nothing(mesh: RunningMesh) -> None:
    spec = agent_pb2.AgentSpec(agent_id="a1", name="Ann", type=agent_pb2.AGENT_TYPE_WORKER)
    spec.endpoint.host = "h"
    spec.endpoint.port = 3000
    await mesh.operator.registry.DeclareAgent(pb.DeclareAgentRequest(namespace="default", spec=spec))
    await mesh.agent("a1")
    request = pb.GetAgentRequest(namespace="default", agent_id="a1")
    agent = (await mesh.operator.registry.GetAgent(request)).agent
    assert (agent.spec.name, agent.spec.endpoint.port) == ("Ann", 3000)
    assert agent.health == agent_pb2.HEALTH_HEALTHY


async def test_a_token_lets_nobody_register_as_another(mesh: RunningMesh) -> None:
    stubs = mesh.stubs(await mesh.token("a1"))
    spec = agent_pb2.AgentSpec(agent_id="a2", type=agent_pb2.AGENT_TYPE_WORKER)
    request = pb.RegisterAgentRequest(spec=spec, session_key=b"k" * 16)
    call = stubs.registry.RegisterAgent(request, metadata=stubs.metadata)
    assert await refused(call) == "IDENTITY_MISMATCH"
    request.spec.agent_id = "a1"
    request.spec.type = agent_pb2.AGENT_TYPE_ORCHESTRATOR
    call = stubs.registry.RegisterAgent(request, metadata=stubs.metadata)
    assert await refused(call) == "IDENTITY_MISMATCH"


async def test_a_token_lets_nobody_end_or_open_the_session_of_another(mesh: RunningMesh) -> None:
    first = await mesh.agent("a1")
    other = mesh.stubs(await mesh.token("a2"))
    request = pb.DeregisterAgentRequest(agent_id="a1", session_id=first.registered.session_id)
    leave = other.registry.DeregisterAgent(request, metadata=other.metadata)
    assert await refused(leave) == "IDENTITY_MISMATCH"
    own = first.stubs
    first.stubs = other
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await first.open()
    assert reason_of(caught.value) == "IDENTITY_MISMATCH"
    await own.registry.DeregisterAgent(request, metadata=own.metadata)


async def test_an_agent_registers_no_more_than_its_token_allows(mesh: RunningMesh) -> None:
    worker = agent_pb2.AGENT_TYPE_WORKER
    grant = auth_service_pb2.IssueTokenRequest(
        namespace="default", agent_id="a1", type=worker, capabilities=["work"]
    )
    stubs = mesh.stubs((await mesh.operator.auth.IssueToken(grant)).token.value)
    for capabilities, key, reason in (
        (["work", "gpu"], bytes(16), "GRANT_EXCEEDS_CALLER"),
        (["work"], bytes(15), "INVALID_ARGUMENT"),
        (["work"], b"", "INVALID_ARGUMENT"),
    ):
        spec = agent_pb2.AgentSpec(agent_id="a1", type=worker, capabilities=capabilities)
        request = pb.RegisterAgentRequest(spec=spec, session_key=key)
        assert await refused(stubs.registry.RegisterAgent(request, metadata=stubs.metadata)) == reason
    request.session_key = bytes(16)
    assert (await stubs.registry.RegisterAgent(request, metadata=stubs.metadata)).session_id


async def test_a_stream_that_is_over_is_forgotten(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    assert len(mesh.parts.mesh.streams) == 1
    await agent.call.done_writing()
    async with asyncio.timeout(10):
        assert await agent.call.read() is grpc.aio.EOF
    assert not mesh.parts.mesh.streams


async def test_registering_again_with_the_same_key_returns_the_same_session(mesh: RunningMesh) -> None:
    stubs = mesh.stubs(await mesh.token("a1"))
    spec = agent_pb2.AgentSpec(agent_id="a1", type=agent_pb2.AGENT_TYPE_WORKER)
    request = pb.RegisterAgentRequest(spec=spec, session_key=b"k" * 16)
    first = await stubs.registry.RegisterAgent(request, metadata=stubs.metadata)
    again = await stubs.registry.RegisterAgent(request, metadata=stubs.metadata)
    assert (first.session_id, first.resume_token) == (again.session_id, again.resume_token)
    request.session_key = b"o" * 16
    other = await stubs.registry.RegisterAgent(request, metadata=stubs.metadata)
    assert other.session_id != first.session_id


async def test_a_second_process_sends_the_first_away(mesh: RunningMesh) -> None:
    first = await mesh.agent("a1")
    await mesh.agent("a1")
    assert (await first.expect("go_away")).go_away.reason == session_pb2.GO_AWAY_REASON_SUPERSEDED
    assert await first.call.read() is grpc.aio.EOF


@pytest.mark.parametrize("first", [None, session_pb2.AgentFrame(beat=session_pb2.Beat(seq=1))])
async def test_a_stream_begins_with_open(mesh: RunningMesh, first: session_pb2.AgentFrame | None) -> None:
    stubs = mesh.stubs(await mesh.token("a1"))
    call = stubs.scheduler.Work(metadata=stubs.metadata)
    await call.write(scheduler_service_pb2.WorkRequest(frames=[first] if first else []))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert reason_of(caught.value) == "PROTOCOL_VIOLATION"


async def test_an_unknown_session_is_refused(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    agent.registered.session_id = "unknown"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await agent.open()
    assert reason_of(caught.value) == "SESSION_NOT_FOUND"
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_heartbeat_stream_keeps_an_agent_without_work(mesh: RunningMesh) -> None:
    stubs = mesh.stubs(await mesh.token("m1", "MONITOR"))
    spec = agent_pb2.AgentSpec(agent_id="m1", type=agent_pb2.AGENT_TYPE_MONITOR)
    registered = await stubs.registry.RegisterAgent(
        pb.RegisterAgentRequest(spec=spec, session_key=b"k" * 16), metadata=stubs.metadata
    )
    call = stubs.registry.Heartbeat(metadata=stubs.metadata)
    opening = session_pb2.Open(
        agent_id="m1",
        session_id=registered.session_id,
        resume_token=registered.resume_token,
        stream_seq=1,
        protocol=1,
        features=[session_pb2.FEATURE_LEASE_ACK],
    )
    await call.write(pb.HeartbeatRequest(frames=[session_pb2.AgentFrame(open=opening)]))
    assert (await call.read()).frames[0].WhichOneof("frame") == "opened"
    await call.write(pb.HeartbeatRequest(frames=[session_pb2.AgentFrame(beat=session_pb2.Beat(seq=7))]))
    assert (await call.read()).frames[0].lease_ack.beat_seq == 7
    request = pb.GetAgentRequest(namespace="default", agent_id="m1")
    assert (await mesh.operator.registry.GetAgent(request)).agent.health == agent_pb2.HEALTH_HEALTHY
    call.cancel()


async def test_revoking_an_agent_ends_its_streams_and_its_token(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    await agent.expect("assign")
    request = auth_service_pb2.RevokeTokenRequest(namespace="default", agent_id="a1")
    response = await mesh.operator.auth.RevokeToken(request)
    assert response.streams_ended == 1
    call = agent.stubs.registry.GetAgent(pb.GetAgentRequest(agent_id="a1"), metadata=agent.stubs.metadata)
    assert await refused(call) == "TOKEN_REVOKED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(_read_to_the_end(agent.call), 1)
    assert reason_of(caught.value) == "TOKEN_REVOKED"
    task = await mesh.wait("t1", 0)
    assert task.attempt.agent_id == "a1"
    assert task.state == 2  # queued again, for somebody else


async def _read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_status_counts_agents_and_tasks(mesh: RunningMesh) -> None:
    await mesh.agent("a1", capabilities=["else"])
    await mesh.submit("t1")
    status = await mesh.operator.registry.GetMeshStatus(pb.GetMeshStatusRequest())
    (namespace,) = status.namespaces
    assert [(c.health, c.count) for c in namespace.agents] == [(agent_pb2.HEALTH_HEALTHY, 1)]
    assert [(c.state, c.count) for c in namespace.tasks] == [(task_pb2.TASK_STATE_QUEUED, 1)]
    assert namespace.free_slots == 2
    assert status.bounds.killed.seconds == 1


async def test_an_agent_that_goes_while_its_opening_becomes_durable_is_not_connected(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await mesh.agent("a1")
    watch = mesh.operator.registry.WatchAgents(pb.WatchAgentsRequest(namespace="default"))
    await watch.read()
    commit = SqliteStore.commit
    under_way, disk_goes_on, gone = threading.Event(), threading.Event(), asyncio.Event()
    open_session = SessionStreams._open

    async def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return await open_session(*args, **kwargs)
        except asyncio.CancelledError:
            gone.set()
            raise

    def slow(store: SqliteStore, batch: Any) -> None:
        under_way.set()
        assert disk_goes_on.wait(10)
        commit(store, batch)

    monkeypatch.setattr(SqliteStore, "commit", slow)
    monkeypatch.setattr(SessionStreams, "_open", watched)
    opening = asyncio.ensure_future(agent.open())
    assert await asyncio.to_thread(under_way.wait, 10)
    opening.cancel()
    agent.call.cancel()
    await asyncio.wait_for(gone.wait(), 10)
    disk_goes_on.set()
    seen = ""
    async with asyncio.timeout(2):
        while seen != "its connection ended":
            seen = (await watch.read()).changes[-1].agent.health_cause
    watch.cancel()


async def test_a_refused_call_is_freed_without_a_search_for_garbage(mesh: RunningMesh) -> None:
    calls = 20
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(calls):
            call = mesh.operator.registry.GetAgent(pb.GetAgentRequest(namespace="default", agent_id="x"))
            assert await refused(call) == "AGENT_NOT_FOUND"
        gc.collect()
        found = [type(each).__name__ for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    # Streams of the test before may end meanwhile.
    assert found.count("_ServicerContext") < calls // 4
