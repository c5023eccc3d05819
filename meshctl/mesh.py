"""The mesh as one command sees it: one blocking channel, the stubs, and calls whose errors are Problems."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

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
from meshctl.problems import ExitCode, Problem
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

    def __init__(self, channel: grpc.Channel, target: connection.Target, token: str | None) -> None:
        self.target = target
        self.metadata = connection.call_metadata(token)
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.namespaces = namespace_service_pb2_grpc.NamespaceServiceStub(channel)
        self._channel = channel
        self._has_token = bool(token)

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

    def problem(self, error: grpc.RpcError) -> Problem:
        """Returns what to tell the user about a failed call."""
        return problem_of(errors.from_rpc_error(error), self.target)

    @functools.cached_property
    def caller(self) -> auth_service_pb2.IntrospectTokenResponse | None:
        """What the caller's token means; None for the local operator, who has none."""
        if not self._has_token:
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


def connect(
    address: str | None = None, token: str | None = None, ca: str | None = None, insecure: bool | None = None
) -> Mesh:
    """Returns the mesh given, or the one the environment names; it connects with the first call."""
    try:
        target = connection.resolve_target(address, ca, insecure)
        channel = connection.open_blocking_channel(target)
    except errors.ConfigurationError as error:
        what, _, next_step = str(error).partition(": ")
        raise Problem(what, next_step or "meshctl help environment", ExitCode.USAGE) from None
    return Mesh(channel, target, token or os.environ.get("AGENTMESH_TOKEN"))
