"""NamespaceService."""

from __future__ import annotations

from typing import Any

from agentmesh.v1 import namespace_service_pb2 as pb
from agentmesh.v1 import namespace_service_pb2_grpc as pb_grpc
from meshd.domain.values import NamespaceInfo
from meshd.engine.mesh import Entry, Mesh
from meshd.wire import page_token, validate
from meshd.wire.codec.values import timestamp
from meshd.wire.context import current_call


class NamespaceService(pb_grpc.NamespaceServiceServicer):
    """Keeps namespaces."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def CreateNamespace(
        self, request: pb.CreateNamespaceRequest, context: Any
    ) -> pb.CreateNamespaceResponse:
        """Create a namespace."""
        name = validate.namespace_name(request.name, "name")
        description = validate.text(request.description, 1024, "description")
        entry = Entry(current_call(), f"namespace:{name}")
        info, created = await self._mesh.create_namespace(name, description, entry)
        return pb.CreateNamespaceResponse(namespace=_message(info), created=created)

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Any) -> pb.GetNamespaceResponse:
        """Return one namespace."""
        name = validate.namespace_name(request.name, "name")
        info = self._mesh.namespace(name).info
        response = pb.GetNamespaceResponse(namespace=_message(info))
        await self._mesh.commits.settled()
        return response

    async def ListNamespaces(
        self, request: pb.ListNamespacesRequest, context: Any
    ) -> pb.ListNamespacesResponse:
        """List the namespaces the caller may read."""
        size = validate.page_size(request.page_size)
        after = page_token.decode("namespaces", "", request.page_token) if request.page_token else ""
        principal = current_call().principal
        names = sorted(n for n in self._mesh.namespaces if n > after and principal.may_see(n))
        page = names[:size]
        more = page_token.encode("namespaces", "", page[-1]) if len(names) > size else ""
        response = pb.ListNamespacesResponse(
            namespaces=[_message(self._mesh.namespaces[n].info) for n in page],
            next_page_token=more,
        )
        await self._mesh.commits.settled()
        return response


def _message(info: NamespaceInfo) -> pb.Namespace:
    return pb.Namespace(
        name=info.name,
        description=info.description,
        create_time=timestamp(info.create_ms),
        epoch=info.epoch,
    )
