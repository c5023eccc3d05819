"""A meshd of its own process, seen by clients that know the contract and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from agentmesh.v1 import agent_pb2, auth_service_pb2, auth_service_pb2_grpc
from tests.faults.meshd_process import MeshdProcess

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="session")
def meshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshdProcess]:
    with MeshdProcess(tmp_path_factory.mktemp("outside")) as process:
        yield process


@pytest.fixture(scope="session")
def operator_channel(meshd: MeshdProcess) -> Iterator[grpc.Channel]:
    """The operator socket: calls without a token are the local operator's."""
    with grpc.insecure_channel(meshd.address) as channel:
        yield channel


def issue_token(channel: grpc.Channel, agent_id: str, kind: str) -> auth_service_pb2.Token:
    """Have a token issued by the operator."""
    request = auth_service_pb2.IssueTokenRequest(
        namespace="default",
        agent_id=agent_id,
        type=agent_pb2.AgentType.Value(f"AGENT_TYPE_{kind}"),
        capabilities=["*"],
    )
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    return stub.IssueToken(request, timeout=10).token


def bearer(token: auth_service_pb2.Token) -> Metadata:
    """How a client shows a token."""
    return (("authorization", f"Bearer {token.value}"),)


@pytest.fixture(scope="session")
def worker(operator_channel: grpc.Channel) -> Metadata:
    return bearer(issue_token(operator_channel, "worker-1", "WORKER"))


@pytest.fixture(scope="session")
def orchestrator(operator_channel: grpc.Channel) -> Metadata:
    return bearer(issue_token(operator_channel, "lead-1", "ORCHESTRATOR"))
