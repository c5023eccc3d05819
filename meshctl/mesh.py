"""The mesh as one command sees it: one blocking channel, the stubs, and calls whose errors are Problems."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import grpc

from agentmesh import connection, errors
from agentmesh.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    registry_service_pb2_grpc,
    scheduler_service_pb2_grpc,
)
from meshctl import reaching
from meshctl.problems import ExitCode, Problem, usage
from meshctl.refusals import problem_of

CALL_TIMEOUT_S = 10.0
PAGE_SIZE = 1_000

_Q = TypeVar("_Q")
_R = TypeVar("_R")


class _Page(Protocol):
    """A response of a list method."""

    @property
    def next_page_token(self) -> str: ...


_P = TypeVar("_P", bound=_Page)


class Mesh:
    """A connection to meshd. Commands say `mesh.call(mesh.registry.GetAgent, request)`."""

    def __init__(self, reach: reaching.Reach) -> None:
        """Opens the channel, which connects with the first call. Raises Problem for a CA file that is of no use."""
        try:
            channel = connection.open_blocking_channel(reach.target)
        except errors.ConfigurationError as error:
            raise usage(str(error), "name a PEM file by --ca or AGENTMESH_CA") from None
        self.reach = reach
        self.target = reach.target
        self.metadata = connection.call_metadata(reach.token)
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.namespaces = namespace_service_pb2_grpc.NamespaceServiceStub(channel)
        self._channel = channel

    def call(self, method: grpc.UnaryUnaryMultiCallable[_Q, _R], request: _Q) -> _R:
        """Calls a unary method. Raises Problem when it is refused or meshd does not answer within 10 s."""
        try:
            return method(request, timeout=CALL_TIMEOUT_S, metadata=self.metadata)
        except grpc.RpcError as error:
            raise self.problem(error) from None

    def find(self, method: grpc.UnaryUnaryMultiCallable[_Q, _R], request: _Q) -> _R | None:
        """Calls a unary method that returns one object; None when there is no such object."""
        try:
            return self.call(method, request)
        except Problem as problem:
            if problem.code == ExitCode.NOT_FOUND:
                return None
            raise

    def pages(
        self, method: grpc.UnaryUnaryMultiCallable[_Q, _P], request: Callable[[str], _Q]
    ) -> Iterator[_P]:
        """Calls a list method page by page; `request` makes the request for a page token."""
        page_token = ""
        while True:
            page = self.call(method, request(page_token))
            yield page
            page_token = page.next_page_token
            if not page_token:
                return

    def first(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Q, _P],
        request: Callable[[str], _Q],
        items: Callable[[_P], Iterable[_R]],
        limit: int,
    ) -> tuple[list[_R], bool]:
        """Returns the first `limit` items of a list method, and whether there are more."""
        found: list[_R] = []
        more = False
        for page in self.pages(method, request):
            found += items(page)
            more = len(found) > limit or bool(page.next_page_token)
            if len(found) >= limit:
                break
        return found[:limit], more

    def problem(self, error: grpc.RpcError) -> Problem:
        """Returns what to tell the user about a failed call."""
        return problem_of(errors.from_rpc_error(error), self.target, self.reach.profile)

    @functools.cached_property
    def caller(self) -> auth_service_pb2.IntrospectTokenResponse | None:
        """What the caller's token means; None for the local operator, who has none."""
        if not self.reach.token:
            return None
        return self.call(self.auth.IntrospectToken, auth_service_pb2.IntrospectTokenRequest())

    @property
    def is_operator(self) -> bool:
        """True when the caller spans namespaces, so that calls about one object must name theirs."""
        return self.caller is None or not self.caller.namespace

    def namespace_names(self) -> list[str]:
        """Returns the names of the namespaces the caller may read, in order."""

        def request(page_token: str) -> namespace_service_pb2.ListNamespacesRequest:
            return namespace_service_pb2.ListNamespacesRequest(page_size=PAGE_SIZE, page_token=page_token)

        pages = self.pages(self.namespaces.ListNamespaces, request)
        return [namespace.name for page in pages for namespace in page.namespaces]

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


def connect(options: Mapping[str, Any]) -> Mesh:
    """Returns the mesh that the connection options, the environment or a profile name. Raises Problem."""
    return Mesh(reaching.find(options))
