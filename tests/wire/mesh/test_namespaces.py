"""Namespaces: made once, and nothing is told about those of others, nor whether they exist."""

from __future__ import annotations

from tests.wire.mesh.conftest import RunningMesh, namespace_service_pb2, refused


async def create(mesh: RunningMesh, name: str, description: str = "") -> bool:
    request = namespace_service_pb2.CreateNamespaceRequest(name=name, description=description)
    return bool((await mesh.operator.namespaces.CreateNamespace(request)).created)


async def test_one_is_made_once_and_keeps_its_description(mesh: RunningMesh) -> None:
    assert await create(mesh, "other", "of others")
    assert not await create(mesh, "other", "of others")
    request = namespace_service_pb2.CreateNamespaceRequest(name="other", description="mine")
    assert await refused(mesh.operator.namespaces.CreateNamespace(request)) == "NAMESPACE_EXISTS"
    found = await mesh.operator.namespaces.GetNamespace(
        namespace_service_pb2.GetNamespaceRequest(name="other")
    )
    assert found.namespace.description == "of others"


async def test_nothing_is_told_about_those_of_others(mesh: RunningMesh) -> None:
    await create(mesh, "other")
    agent = mesh.stubs(await mesh.token("o1", "ORCHESTRATOR"))
    listed = await agent.namespaces.ListNamespaces(
        namespace_service_pb2.ListNamespacesRequest(), metadata=agent.metadata
    )
    assert [namespace.name for namespace in listed.namespaces] == ["default"]
    for name in ("other", "nowhere", "_mesh"):
        request = namespace_service_pb2.GetNamespaceRequest(name=name)
        call = agent.namespaces.GetNamespace(request, metadata=agent.metadata)
        assert await refused(call) == "NAMESPACE_MISMATCH"
