"""`SyncMesh`: `Mesh` for code without an event loop.

Rule: one implementation. Each method runs `Mesh`'s own on the gRPC thread and blocks until it is done.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from agentmesh.client import Mesh
from agentmesh.grpc_thread import submit, wait_for_grpc_thread
from agentmesh.v1.scheduler_service_pb2 import WatchTaskResponse

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Mesh, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncMesh, P], R]:
    def call(self: SyncMesh, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return wait_for_grpc_thread(method(self._mesh, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[Mesh, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[SyncMesh, P], Iterator[R]]:
    def iterate(self: SyncMesh, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return _iterate(method(self._mesh, *args, **kwargs))

    functools.update_wrapper(iterate, method)
    return iterate


class SyncMesh:
    """A connection to the mesh; use it as `with SyncMesh() as mesh`. Arguments and methods are those of `Mesh`.

    A child by fork of a process that used the mesh cannot use it: its calls raise ConfigurationError.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        namespace: str | None = None,
        token: str | Callable[[], str | None] | None = None,
        ca: str | os.PathLike[str] | None = None,
        insecure: bool | None = None,
        retry_for_s: float = 10.0,
    ) -> None:
        self._mesh = Mesh(
            address, namespace=namespace, token=token, ca=ca, insecure=insecure, retry_for_s=retry_for_s
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def namespace(self) -> str:
        """The namespace of calls that name none; "" means the token's."""
        return self._mesh.namespace

    close = _blocking(Mesh.close)

    submit = _blocking(Mesh.submit)
    submit_many = _blocking(Mesh.submit_many)
    get = _blocking(Mesh.get)
    wait = _blocking(Mesh.wait)
    result = _blocking(Mesh.result)
    cancel = _blocking(Mesh.cancel)
    list_tasks = _blocking(Mesh.list_tasks)
    explain = _blocking(Mesh.explain)
    workload = _blocking(Mesh.workload)

    drain_agents = _blocking(Mesh.drain_agents)
    undrain_agents = _blocking(Mesh.undrain_agents)
    list_drains = _blocking(Mesh.list_drains)
    wait_agents_idle = _blocking(Mesh.wait_agents_idle)

    declare_agent = _blocking(Mesh.declare_agent)
    get_agent = _blocking(Mesh.get_agent)
    list_agents = _blocking(Mesh.list_agents)
    status = _blocking(Mesh.status)
    create_namespace = _blocking(Mesh.create_namespace)

    issue_token = _blocking(Mesh.issue_token)
    revoke_token = _blocking(Mesh.revoke_token)
    introspect_token = _blocking(Mesh.introspect_token)
    create_join_token = _blocking(Mesh.create_join_token)

    def watch(
        self, task_id: str, *, namespace: str | None = None, retry_for_s: float | None = None
    ) -> Iterator[WatchTaskResponse]:
        """Yields the task now, then its changes, progress and output; the last event is its end."""
        yield from _iterate(self._mesh.watch(task_id, namespace=namespace, retry_for_s=retry_for_s))

    watch_tasks = _iterating(Mesh.watch_tasks)
    watch_agents = _iterating(Mesh.watch_agents)


def _iterate(items: AsyncGenerator[R, None]) -> Iterator[R]:
    try:
        while (item := wait_for_grpc_thread(_next_or_none(items))) is not None:
            yield item
    finally:
        # Not waited for: an iterator that is left over ends wherever garbage is found, or with the interpreter.
        submit(items.aclose())


async def _next_or_none(items: AsyncGenerator[R, None]) -> R | None:
    return await anext(items, None)
