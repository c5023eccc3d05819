"""NamespaceService by blocking stubs, on the operator socket."""

from __future__ import annotations

import grpc
import pytest

from agentmesh.v1 import namespace_service_pb2, namespace_service_pb2_grpc
from tests.faults.meshd_process import MeshdProcess

Stub = namespace_service_pb2_grpc.NamespaceServiceStub


@pytest.fixture(scope="module")
def grpc_addr(meshd: MeshdProcess) -> str:
    return meshd.address


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


def test_a_namespace_is_made_once_read_and_listed(grpc_stub: Stub) -> None:
    request = namespace_service_pb2.CreateNamespaceRequest(name="blocking", description="by blocking stubs")
    first, second = (grpc_stub.CreateNamespace(request, timeout=10) for _ in range(2))
    assert (first.created, second.created) == (True, False)
    read = grpc_stub.GetNamespace(namespace_service_pb2.GetNamespaceRequest(name="blocking"), timeout=10)
    assert read.namespace.description == "by blocking stubs"
    listed = grpc_stub.ListNamespaces(namespace_service_pb2.ListNamespacesRequest(), timeout=10)
    assert {"blocking", "default"} <= {namespace.name for namespace in listed.namespaces}


def test_an_unknown_namespace_is_not_found(grpc_stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.GetNamespace(namespace_service_pb2.GetNamespaceRequest(name="nowhere"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
