"""Nothing that is read leaves before it is durable: while the disk hangs, no read of changed state answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    namespace_service_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
)
from meshd.daemon import SERVICES
from meshd.domain.access import Action
from meshd.store.sqlite import SqliteStore
from meshd.wire.access_rules import load_rules
from tests.wire.mesh.conftest import RunningMesh, Stubs

IN: Any = {"namespace": "default"}


def reads(stubs: Stubs) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return how to begin each read of the contract, by method; of a stream, its first message."""
    registry, scheduler = registry_service_pb2, scheduler_service_pb2
    everyone = registry.AgentSelector(agent_id_pattern="*")
    at_once = registry.WaitAgentsIdleRequest(selector=everyone, **IN)
    at_once.timeout.FromMilliseconds(0)
    waited = scheduler.WaitTaskRequest(task_id="t1", **IN)
    waited.timeout.FromMilliseconds(1)
    return {
        "GetAgent": lambda: stubs.registry.GetAgent(registry.GetAgentRequest(agent_id="a1", **IN)),
        "ListAgents": lambda: stubs.registry.ListAgents(registry.ListAgentsRequest()),
        "WatchAgents": lambda: stubs.registry.WatchAgents(registry.WatchAgentsRequest(**IN)).read(),
        "ListDrains": lambda: stubs.registry.ListDrains(registry.ListDrainsRequest()),
        "WaitAgentsIdle": lambda: stubs.registry.WaitAgentsIdle(at_once),
        "GetMeshStatus": lambda: stubs.registry.GetMeshStatus(registry.GetMeshStatusRequest()),
        "GetTask": lambda: stubs.scheduler.GetTask(scheduler.GetTaskRequest(task_id="t1", **IN)),
        "ListTasks": lambda: stubs.scheduler.ListTasks(scheduler.ListTasksRequest()),
        "WaitTask": lambda: stubs.scheduler.WaitTask(waited),
        "WatchTask": lambda: stubs.scheduler.WatchTask(scheduler.WatchTaskRequest(task_id="t1", **IN)).read(),
        "WatchTasks": lambda: stubs.scheduler.WatchTasks(scheduler.WatchTasksRequest(**IN)).read(),
        "ExplainTask": lambda: stubs.scheduler.ExplainTask(scheduler.ExplainTaskRequest(task_id="t1", **IN)),
        "GetWorkload": lambda: stubs.scheduler.GetWorkload(scheduler.GetWorkloadRequest()),
        "IntrospectToken": lambda: stubs.auth.IntrospectToken(auth_service_pb2.IntrospectTokenRequest()),
        "ListKeys": lambda: stubs.auth.ListKeys(auth_service_pb2.ListKeysRequest()),
        "ListAuditEvents": lambda: stubs.auth.ListAuditEvents(auth_service_pb2.ListAuditEventsRequest()),
        "GetNamespace": lambda: stubs.namespaces.GetNamespace(
            namespace_service_pb2.GetNamespaceRequest(name="default")
        ),
        "ListNamespaces": lambda: stubs.namespaces.ListNamespaces(
            namespace_service_pb2.ListNamespacesRequest()
        ),
    }


async def test_no_read_answers_before_what_it_shows_is_durable(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = reads(mesh.operator)
    assert calls.keys() == {m.name for m in load_rules(SERVICES).values() if m.rule.action is Action.READ}
    await mesh.submit("t1")
    await mesh.agent("a1", capabilities=["else"])
    commit = SqliteStore.commit
    under_way, disk_goes_on = threading.Event(), threading.Event()

    def slow(store: SqliteStore, batch: Any) -> None:
        under_way.set()
        assert disk_goes_on.wait(30)
        commit(store, batch)

    monkeypatch.setattr(SqliteStore, "commit", slow)
    spec = agent_pb2.AgentSpec(agent_id="a2", type=agent_pb2.AGENT_TYPE_WORKER)
    request = registry_service_pb2.DeclareAgentRequest(spec=spec, **IN)
    change = asyncio.ensure_future(mesh.operator.registry.DeclareAgent(request))
    assert await asyncio.to_thread(under_way.wait, 10)
    answers = {name: asyncio.ensure_future(begin()) for name, begin in calls.items()}
    # Probes read nothing: when the last of them is answered, each read has had its turns.
    async with grpc.aio.insecure_channel(mesh.socket) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(100):
            await health.Check(health_pb2.HealthCheckRequest())
    early = [name for name, answer in answers.items() if answer.done()]
    disk_goes_on.set()
    await asyncio.gather(change, *answers.values())
    assert early == []
