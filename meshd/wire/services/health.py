"""grpc.health.v1 for the daemon and each of its services: all serve or none does.

Rule: setting the state never waits for a watcher, not even for one that stopped reading. (The ready-made servicer of
grpcio-health-checking writes to watchers under the lock that a change of state needs, so one such peer would block it.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Context = grpc.aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Check, List and Watch; NOT_SERVING until told otherwise."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._serving = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Set the state of all services and wake the watchers."""
        if serving != self._serving:
            self._serving = serving
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Status:
        """Return the state of a service; aborts with NOT_FOUND, as the protocol has it, for one that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this daemon has no such service")
        return Status(status=self._status(request.service))

    async def List(self, _request: Any, _context: Context) -> Any:
        """Return the state of every service."""
        reply: Any = vars(health_pb2)["HealthListResponse"]  # Newer than the published types.
        return reply(statuses={name: Status(status=self._status(name)) for name in self._services})

    async def Watch(self, request: health_pb2.HealthCheckRequest, _context: Context) -> AsyncIterator[Status]:
        """Send the state of a service now and at every change; ends with the caller or the daemon."""
        told: Any = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                told = status
                yield Status(status=status)
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._serving else Status.NOT_SERVING
