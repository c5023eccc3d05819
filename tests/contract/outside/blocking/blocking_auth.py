"""AuthService by blocking stubs: an operator on the socket, and an agent that comes by itself."""

from __future__ import annotations

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentmesh.v1 import agent_pb2, auth_service_pb2, auth_service_pb2_grpc
from tests.contract.outside.conftest import bearer, issue_token
from tests.faults.meshd_process import MeshdProcess

Stub = auth_service_pb2_grpc.AuthServiceStub


@pytest.fixture(scope="module")
def grpc_addr(meshd: MeshdProcess) -> str:
    return meshd.address


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


@pytest.fixture(scope="module")
def by_token(meshd: MeshdProcess) -> Stub:
    """The TCP port, where a call is made in the name of its token."""
    return Stub(grpc.insecure_channel(meshd.tcp_address))


def test_a_token_is_issued_understood_and_taken_away(
    grpc_channel: grpc.Channel, grpc_stub: Stub, by_token: Stub
) -> None:
    token = issue_token(grpc_channel, "critic-1", "CRITIC")
    own = auth_service_pb2.IntrospectTokenRequest()
    known = by_token.IntrospectToken(own, metadata=bearer(token), timeout=10)
    assert (known.active, known.namespace, known.type) == (True, "default", agent_pb2.AGENT_TYPE_CRITIC)
    grpc_stub.RevokeToken(
        auth_service_pb2.RevokeTokenRequest(namespace="default", token=token.value), timeout=10
    )
    with pytest.raises(grpc.RpcError) as caught:
        by_token.IntrospectToken(own, metadata=bearer(token), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_an_agent_joins_once_and_renews_by_its_key(grpc_stub: Stub, by_token: Stub) -> None:
    invitation = grpc_stub.CreateJoinToken(
        auth_service_pb2.CreateJoinTokenRequest(
            namespace="default", agent_id="joiner", type=agent_pb2.AGENT_TYPE_WORKER, capabilities=["reading"]
        ),
        timeout=10,
    ).join_token
    key = Ed25519PrivateKey.generate()
    request = auth_service_pb2.JoinRequest(
        namespace="default",
        agent_id="joiner",
        type=agent_pb2.AGENT_TYPE_WORKER,
        join_token=invitation,
        public_key=key.public_key().public_bytes_raw(),
        capabilities=["reading"],
    )
    first = by_token.Join(request, timeout=10).token
    who = auth_service_pb2.RenewTokenRequest(namespace="default", agent_id="joiner")
    who.nonce = by_token.RenewToken(who, timeout=10).nonce
    who.signature = key.sign(b"\0".join((b"agentmesh-renew-v1", b"default", b"joiner", who.nonce)))
    renewed = by_token.RenewToken(who, timeout=10).token
    assert renewed.family == first.family
    request.public_key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(grpc.RpcError) as caught:
        by_token.Join(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_keys_and_the_audit_log_can_be_read(grpc_stub: Stub) -> None:
    keys = grpc_stub.ListKeys(auth_service_pb2.ListKeysRequest(), timeout=10).keys
    assert [len(key.public_key) for key in keys] == [32]
    log = grpc_stub.ListAuditEvents(auth_service_pb2.ListAuditEventsRequest(page_size=5), timeout=10)
    assert log.events
