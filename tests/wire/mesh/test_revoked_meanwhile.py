"""A call that waits while its token is revoked has no effect once the revocation has returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from agentmesh.v1 import auth_service_pb2, payload_pb2, task_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from meshd.domain.commands import LookAgain
from meshd.engine.known_tasks import KnownTasks
from meshd.engine.mesh import Mesh
from tests.wire.mesh.conftest import RunningMesh, Stubs, reason_of


class Holding:
    """Lets one call of a method return only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, held_call: int = 1) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        method = getattr(owner, name)
        calls = 0

        async def held(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            found = await method(*given)
            if calls == held_call:
                self.reached.set()
                await self.go_on.wait()
            return found

        monkeypatch.setattr(owner, name, held)


def spec(task_id: str) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(task_id=task_id, task_type="work", payload=payload_pb2.Payload(inline=b"in"))


def submit(stubs: Stubs) -> Awaitable[Any]:
    request = pb.SubmitTaskRequest(namespace="default", spec=spec("new"))
    return stubs.scheduler.SubmitTask(request, metadata=stubs.metadata)  # type: ignore[no-any-return]


def submit_many(stubs: Stubs) -> Awaitable[Any]:
    request = pb.SubmitTasksRequest(namespace="default", specs=[spec("new"), spec("newer")])
    return stubs.scheduler.SubmitTasks(request, metadata=stubs.metadata)  # type: ignore[no-any-return]


def cancel(stubs: Stubs) -> Awaitable[Any]:
    request = pb.CancelTaskRequest(namespace="default", task_id="old")
    return stubs.scheduler.CancelTask(request, metadata=stubs.metadata)  # type: ignore[no-any-return]


async def revoked_while_held(mesh: RunningMesh, call: Callable[[Stubs], Awaitable[Any]], at: Holding) -> None:
    """Make the call as an orchestrator whose token is revoked meanwhile; nothing has come of it."""
    called = asyncio.ensure_future(call(mesh.stubs(await mesh.token("o1", "ORCHESTRATOR"))))
    async with asyncio.timeout(10):
        await at.reached.wait()
        revoke = auth_service_pb2.RevokeTokenRequest(namespace="default", agent_id="o1")
        await mesh.operator.auth.RevokeToken(revoke)
        before = await everything(mesh)
        at.go_on.set()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called
    assert reason_of(refused.value) == "TOKEN_REVOKED"
    assert await everything(mesh) == before


async def everything(mesh: RunningMesh) -> Any:
    tasks = await mesh.operator.scheduler.ListTasks(pb.ListTasksRequest(namespace="default"))
    request = auth_service_pb2.ListAuditEventsRequest(namespace="default", subject="agent:default/o1")
    records = await mesh.operator.auth.ListAuditEvents(request)
    return list(tasks.tasks), [record for record in records.events if record.allowed]


@pytest.mark.parametrize("call", [submit, submit_many])
async def test_a_submit_that_looks_for_its_ids(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch, call: Callable[[Stubs], Awaitable[Any]]
) -> None:
    await revoked_while_held(mesh, call, Holding(monkeypatch, KnownTasks, "find"))


async def test_a_submit_that_must_look_again(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Mesh.ask

    async def look_again(each: Mesh, ns: Any, make: Any, entry: Any) -> Any:
        if entry.call.principal.agent_id == "o1" and not entry.recorded:
            entry.recorded = True
            return LookAgain()
        return await ask(each, ns, make, entry)

    monkeypatch.setattr(Mesh, "ask", look_again)
    await revoked_while_held(mesh, submit, Holding(monkeypatch, KnownTasks, "find", held_call=2))


async def test_a_cancel_that_looks_for_its_task(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    await mesh.submit("old")
    await revoked_while_held(mesh, cancel, Holding(monkeypatch, Mesh, "find_task"))


async def test_a_cancel_of_what_has_ended(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing, and is recorded nevertheless."""
    await mesh.submit("old")
    await mesh.operator.scheduler.CancelTask(pb.CancelTaskRequest(namespace="default", task_id="old"))
    mesh.parts.mesh.namespaces["default"].recent.clear()
    await revoked_while_held(mesh, cancel, Holding(monkeypatch, Mesh, "find_task"))
