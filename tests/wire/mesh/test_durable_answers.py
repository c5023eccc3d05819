"""Nothing leaves before it is durable: while the disk hangs, no read of changed state answers, and no audited call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    namespace_service_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    task_pb2,
)
from meshd.daemon import SERVICES
from meshd.domain.access import Action
from meshd.engine import commits as commits_module
from meshd.store.sqlite import SqliteStore
from meshd.wire.access_rules import load_rules
from tests.auth_world import AgentKey
from tests.wire.mesh.conftest import RunningMesh, Stubs, refused

IN: Any = {"namespace": "default"}
STREAMS = {"Work", "Heartbeat"}
Calls: TypeAlias = dict[str, Callable[[], Awaitable[Any]]]


def reads(stubs: Stubs) -> Calls:
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


async def audited(mesh: RunningMesh) -> Calls:
    """Return how to begin each audited call of the contract that is no read, by method."""
    auth, registry, scheduler = auth_service_pb2, registry_service_pb2, scheduler_service_pb2
    stubs, worker, key = mesh.operator, agent_pb2.AGENT_TYPE_WORKER, AgentKey()
    leaving, coming = await mesh.agent("a3"), mesh.stubs(await mesh.token("a4"))
    await stubs.auth.Join(auth.JoinRequest(agent_id="w1", type=worker, public_key=key.public, **IN))
    nonce = (await stubs.auth.RenewToken(auth.RenewTokenRequest(agent_id="w1", **IN))).nonce
    signature = key.prove("default", "w1", nonce)
    await mesh.submit("t2")

    def declared(agent_id: str) -> Any:
        return agent_pb2.AgentSpec(agent_id=agent_id, type=worker)

    def task(task_id: str) -> Any:
        return task_pb2.TaskSpec(task_id=task_id, task_type="work")

    requests: dict[str, tuple[Callable[..., Any], Any]] = {
        "RegisterAgent": (
            coming.registry.RegisterAgent,
            registry.RegisterAgentRequest(spec=declared("a4"), session_key=bytes(16)),
        ),
        "DeregisterAgent": (
            leaving.stubs.registry.DeregisterAgent,
            registry.DeregisterAgentRequest(agent_id="a3", session_id=leaving.registered.session_id),
        ),
        "DeclareAgent": (
            stubs.registry.DeclareAgent,
            registry.DeclareAgentRequest(spec=declared("a5"), **IN),
        ),
        "DrainAgents": (
            stubs.registry.DrainAgents,
            registry.DrainAgentsRequest(selector=registry.AgentSelector(agent_id_pattern="*"), **IN),
        ),
        "SubmitTask": (stubs.scheduler.SubmitTask, scheduler.SubmitTaskRequest(spec=task("t3"), **IN)),
        "SubmitTasks": (stubs.scheduler.SubmitTasks, scheduler.SubmitTasksRequest(specs=[task("t4")], **IN)),
        "CancelTask": (stubs.scheduler.CancelTask, scheduler.CancelTaskRequest(task_id="t2", **IN)),
        "Join": (stubs.auth.Join, auth.JoinRequest(agent_id="w2", type=worker, public_key=key.public, **IN)),
        "RenewToken": (
            stubs.auth.RenewToken,
            auth.RenewTokenRequest(agent_id="w1", nonce=nonce, signature=signature, **IN),
        ),
        "IssueToken": (stubs.auth.IssueToken, auth.IssueTokenRequest(agent_id="w3", type=worker, **IN)),
        "RevokeToken": (stubs.auth.RevokeToken, auth.RevokeTokenRequest(agent_id="w4", **IN)),
        "CreateJoinToken": (
            stubs.auth.CreateJoinToken,
            auth.CreateJoinTokenRequest(agent_id="w5", type=worker, **IN),
        ),
        "CreateNamespace": (
            stubs.namespaces.CreateNamespace,
            namespace_service_pb2.CreateNamespaceRequest(name="n2"),
        ),
    }
    callers = {"RegisterAgent": coming, "DeregisterAgent": leaving.stubs}

    def begin(name: str) -> Callable[[], Awaitable[Any]]:
        method, request = requests[name]
        return lambda: method(request, metadata=callers.get(name, stubs).metadata)

    return {name: begin(name) for name in requests}


async def early(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> list[str]:
    """Return which of the calls are answered while a commit before them hangs; all are once it goes on."""
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
    # Probes read nothing: when the last of them is answered, each call has had its turns.
    async with grpc.aio.insecure_channel(mesh.socket) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(100):
            await health.Check(health_pb2.HealthCheckRequest())
    answered = [name for name, answer in answers.items() if answer.done()]
    disk_goes_on.set()
    await asyncio.gather(change, *answers.values())
    return answered


async def test_no_read_answers_before_what_it_shows_is_durable(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = reads(mesh.operator)
    assert calls.keys() == {m.name for m in load_rules(SERVICES).values() if m.rule.action is Action.READ}
    await mesh.submit("t1")
    await mesh.agent("a1", capabilities=["else"])
    assert await early(mesh, monkeypatch, calls) == []


async def test_no_audited_call_answers_before_its_record_is_durable(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = await audited(mesh)
    rules = [method for method in load_rules(SERVICES).values() if method.rule.audit]
    assert calls.keys() | STREAMS == {m.name for m in rules if m.rule.action is not Action.READ}
    assert await early(mesh, monkeypatch, calls) == []


async def test_while_the_disk_lags_behind_audited_calls_are_refused_and_streams_go_on(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await mesh.agent("a1")
    calls = await audited(mesh)
    before = [mesh.parts.mesh.audit.head(namespace) for namespace in ("default", "_mesh")]
    monkeypatch.setattr(commits_module, "MAX_UNCOMMITTED_AGE_S", -1.0)
    assert {name: await refused(begin()) for name, begin in calls.items()} == dict.fromkeys(
        calls, "OVERLOADED"
    )
    assert [mesh.parts.mesh.audit.head(namespace) for namespace in ("default", "_mesh")] == before
    await agent.open()
