"""RegistryService by blocking stubs."""

from __future__ import annotations

import queue

import grpc
import pytest

from agentmesh.v1 import agent_pb2, registry_service_pb2, registry_service_pb2_grpc, session_pb2
from tests.contract.outside.conftest import Metadata

Stub = registry_service_pb2_grpc.RegistryServiceStub
SPEC = agent_pb2.AgentSpec(
    agent_id="worker-1", type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["reading"], slots=2
)


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


@pytest.fixture
def session(grpc_stub: Stub, worker: Metadata) -> registry_service_pb2.RegisterAgentResponse:
    request = registry_service_pb2.RegisterAgentRequest(spec=SPEC, session_key=b"0123456789abcdef")
    return grpc_stub.RegisterAgent(request, metadata=worker, timeout=10)


Session = registry_service_pb2.RegisterAgentResponse


def test_an_agent_registers_is_found_and_leaves(
    grpc_stub: Stub, worker: Metadata, orchestrator: Metadata, session: Session
) -> None:
    assert session.agent.namespace == "default"
    assert session.resume_token
    found = grpc_stub.ListAgents(
        registry_service_pb2.ListAgentsRequest(capabilities=["reading"]), metadata=orchestrator, timeout=10
    )
    assert [agent.spec.agent_id for agent in found.agents] == ["worker-1"]
    grpc_stub.DeregisterAgent(
        registry_service_pb2.DeregisterAgentRequest(agent_id="worker-1", session_id=session.session_id),
        metadata=worker,
        timeout=10,
    )
    gone = grpc_stub.GetAgent(
        registry_service_pb2.GetAgentRequest(agent_id="worker-1"), metadata=worker, timeout=10
    )
    assert gone.agent.health == agent_pb2.HEALTH_DECLARED


def test_registering_twice_with_one_key_is_one_session(
    grpc_stub: Stub, worker: Metadata, session: Session
) -> None:
    request = registry_service_pb2.RegisterAgentRequest(spec=SPEC, session_key=b"0123456789abcdef")
    again = grpc_stub.RegisterAgent(request, metadata=worker, timeout=10)
    assert (again.session_id, again.resume_token) == (session.session_id, session.resume_token)


def test_an_agent_that_takes_no_work_beats(grpc_stub: Stub, worker: Metadata, session: Session) -> None:
    frames: queue.SimpleQueue[registry_service_pb2.HeartbeatRequest | None] = queue.SimpleQueue()
    opening = session_pb2.Open(
        agent_id="worker-1",
        session_id=session.session_id,
        resume_token=session.resume_token,
        stream_seq=1,
        protocol=1,
        features=[session_pb2.FEATURE_LEASE_ACK],
    )
    for frame in (
        session_pb2.AgentFrame(open=opening),
        session_pb2.AgentFrame(beat=session_pb2.Beat(seq=7)),
    ):
        frames.put(registry_service_pb2.HeartbeatRequest(frames=[frame]))
    answers = grpc_stub.Heartbeat(iter(frames.get, None), metadata=worker, timeout=10)
    kinds = (frame for answer in answers for frame in answer.frames)
    assert next(kinds).opened.limits.lease_ttl.ToMilliseconds() > 0
    assert next(frame for frame in kinds if frame.HasField("lease_ack")).lease_ack.beat_seq == 7
    frames.put(None)
    answers.cancel()


def test_the_status_names_its_bounds(grpc_stub: Stub, orchestrator: Metadata) -> None:
    status = grpc_stub.GetMeshStatus(
        registry_service_pb2.GetMeshStatusRequest(), metadata=orchestrator, timeout=10
    )
    assert status.bounds.killed.ToMilliseconds() > 0
    assert [entry.namespace for entry in status.namespaces] == ["default"]


def test_a_call_without_token_is_refused(grpc_stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.ListAgents(registry_service_pb2.ListAgentsRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
