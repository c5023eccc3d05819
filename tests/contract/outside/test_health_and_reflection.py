"""grpc.health.v1 and reflection as load balancers and grpcurl use them: plain grpcio clients, no stubs of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.contract.outside.conftest import Metadata
from tests.faults.meshd_process import MeshdProcess

Status = health_pb2.HealthCheckResponse
SERVICES = {f"agentmesh.v1.{name}Service" for name in ("Auth", "Namespace", "Registry", "Scheduler")}
ALL_SERVICES = SERVICES | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def health(channel: grpc.Channel) -> Any:
    """The published types know neither of the methods."""
    return health_pb2_grpc.HealthStub(channel)


@pytest.fixture
def tcp_channel(meshd: MeshdProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(meshd.tcp_address) as channel:
        yield channel


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_every_service_is_healthy(tcp_channel: grpc.Channel, service: str) -> None:
    stub = health(tcp_channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=10).status == Status.SERVING
    watched = stub.Watch(request, timeout=10)
    assert next(watched).status == Status.SERVING
    watched.cancel()


def test_an_unknown_service_is_not_found_and_watched_until_it_is_there(tcp_channel: grpc.Channel) -> None:
    stub = health(tcp_channel)
    request = health_pb2.HealthCheckRequest(service="agentmesh.v1.NoSuchService")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = stub.Watch(request, timeout=10)
    assert next(watched).status == Status.SERVICE_UNKNOWN
    watched.cancel()


def test_a_watcher_is_told_before_meshd_goes(tmp_path: Path) -> None:
    with MeshdProcess(tmp_path) as own, grpc.insecure_channel(own.tcp_address) as channel:
        watched = health(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watched).status == Status.SERVING
        own.stop()
        assert next(watched).status == Status.NOT_SERVING


def test_reflection_is_for_those_with_a_token(tcp_channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(tcp_channel, (), list_services="")
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def ask(channel: grpc.Channel, caller: Metadata, **question: Any) -> Any:
    """One question to the reflection service."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    questions = iter([reflection_pb2.ServerReflectionRequest(**question)])
    return next(stub.ServerReflectionInfo(questions, metadata=caller, timeout=10))


def test_reflection_lists_every_service(tcp_channel: grpc.Channel, worker: Metadata) -> None:
    listed = ask(tcp_channel, worker, list_services="").list_services_response
    assert {service.name for service in listed.service} == ALL_SERVICES


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_reflection_describes_a_service_with_all_it_needs(
    tcp_channel: grpc.Channel, worker: Metadata, service: str
) -> None:
    answer = ask(tcp_channel, worker, file_containing_symbol=service).file_descriptor_response
    files = [descriptor_pb2.FileDescriptorProto.FromString(each) for each in answer.file_descriptor_proto]
    described = {f"{file.package}.{each.name}" for file in files for each in file.service}
    assert service in described
    known, wanted = {file.name for file in files}, {name for file in files for name in file.dependency}
    for name in wanted - known:
        assert ask(tcp_channel, worker, file_by_filename=name).HasField("file_descriptor_response")


def test_reflection_does_not_know_what_is_not_there(tcp_channel: grpc.Channel, worker: Metadata) -> None:
    answer = ask(tcp_channel, worker, file_containing_symbol="agentmesh.v1.NoSuchService")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
