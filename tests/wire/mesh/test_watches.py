"""Watches over the wire: a snapshot, then changes; resumed, reset, filtered, cut, confined, ended by revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from agentmesh.v1 import (
    agent_pb2,
    auth_service_pb2,
    namespace_service_pb2,
    payload_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    session_pb2,
    task_pb2,
    watch_pb2,
)
from meshd.engine import feeds
from tests.wire.mesh.conftest import HandMadeAgent, RunningMesh, Stubs, reason_of, refused


class Seen:
    """What a watcher knows, as the contract tells it to keep it."""

    def __init__(self, stubs: Stubs, what: str, **request: Any) -> None:
        request.setdefault("namespace", "default")
        if what == "agents":
            call = stubs.registry.WatchAgents(
                registry_service_pb2.WatchAgentsRequest(**request), metadata=stubs.metadata
            )
        else:
            call = stubs.scheduler.WatchTasks(
                scheduler_service_pb2.WatchTasksRequest(**request), metadata=stubs.metadata
            )
        self.call = call
        self.now: dict[str, Any] = {}
        self.changes: list[tuple[str, int]] = []
        self.resets: list[int] = []
        self.position: Any = None
        self.sizes: list[int] = []

    async def read(self) -> None:
        """Apply one message."""
        message = await asyncio.wait_for(self.call.read(), 10)
        assert message is not grpc.aio.EOF
        self.sizes.append(message.ByteSize())
        if message.reset:
            self.resets.append(message.reset)
            self.now.clear()
            self.position = None
        for change in message.changes:
            kind = change.WhichOneof("change")
            if kind.startswith("gone"):
                name = getattr(change, kind)
                self.now.pop(name, None)
                self.changes.append((f"-{name}", change.revision))
                continue
            item = getattr(change, kind)
            name = item.spec.agent_id if kind == "agent" else item.spec.task_id
            self.now[name] = item
            self.changes.append((name, change.revision))
        if message.HasField("position"):
            assert self.position is None or message.position.revision > self.position.revision
            self.position = message.position

    async def until(self, holds: Callable[[], bool]) -> None:
        """Read until something holds."""
        while not holds():
            await self.read()


async def begun(stubs: Stubs, what: str, **request: Any) -> Seen:
    """Return a watcher that has read its snapshot, or the first change after the place it goes on from."""
    seen = Seen(stubs, what, **request)
    await seen.until(lambda: seen.position is not None)
    return seen


async def finish(agent: HandMadeAgent) -> None:
    """Have the agent complete its next task."""
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(done=session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=b"secret-out")))
    await agent.expect("ack")


async def test_agents_are_shown_then_their_changes(mesh: RunningMesh) -> None:
    await mesh.agent("a1")
    seen = await begun(mesh.operator, "agents")
    assert (seen.resets, [*seen.now]) == ([watch_pb2.RESET_REASON_START], ["a1"])
    assert seen.now["a1"].health == agent_pb2.HEALTH_HEALTHY
    agent = await mesh.agent("a2")
    await seen.until(lambda: "a2" in seen.now and seen.now["a2"].health == agent_pb2.HEALTH_HEALTHY)
    agent.call.cancel()
    await seen.until(lambda: seen.now["a2"].health == agent_pb2.HEALTH_LOST)
    assert seen.now["a2"].revision == seen.position.revision
    assert seen.now["a2"].epoch == seen.position.epoch
    assert seen.resets == [watch_pb2.RESET_REASON_START]


async def test_tasks_are_shown_until_their_end_and_never_what_they_carry(mesh: RunningMesh) -> None:
    await mesh.submit("t1", payload=payload_pb2.Payload(inline=b"secret-in"))
    seen = await begun(mesh.operator, "tasks")
    assert [*seen.now] == ["t1"]
    agent = await mesh.agent("a1")
    await finish(agent)
    await seen.until(lambda: seen.now["t1"].state == task_pb2.TASK_STATE_SUCCEEDED)
    await mesh.submit("t2", payload=payload_pb2.Payload(inline=b"secret-in"))
    await seen.until(lambda: "t2" in seen.now)
    assert seen.now["t1"].generation == 3
    assert not any(task.spec.HasField("payload") or task.HasField("output") for task in seen.now.values())
    revisions = [revision for _, revision in seen.changes if revision]
    assert revisions == sorted(revisions)
    # What has ended is no part of another snapshot.
    assert [*(await begun(mesh.operator, "tasks")).now] == ["t2"]


async def test_what_stops_matching_is_said_to_be_gone_once(mesh: RunningMesh) -> None:
    queued = await begun(mesh.operator, "tasks", states=[task_pb2.TASK_STATE_QUEUED], task_type="work")
    held = await begun(mesh.operator, "tasks", agent_id="a1", states=[task_pb2.TASK_STATE_RUNNING])
    healthy = await begun(mesh.operator, "agents", health=[agent_pb2.HEALTH_HEALTHY], text_prefix="A")
    await mesh.submit("t1")
    await queued.until(lambda: "t1" in queued.now)
    agent = await mesh.agent("a1")
    await held.until(lambda: "t1" in held.now)
    await queued.until(lambda: not queued.now)
    await finish(agent)
    await held.until(lambda: not held.now)
    await healthy.until(lambda: "a1" in healthy.now)
    agent.call.cancel()
    await healthy.until(lambda: not healthy.now)
    await mesh.submit("other", task_type="else")
    await mesh.submit("t2")
    await queued.until(lambda: "t2" in queued.now)
    assert [name for name, _ in queued.changes] == ["t1", "-t1", "t2"]
    assert [name for name, _ in held.changes] == ["t1", "-t1"]


async def test_a_watch_goes_on_where_it_was(mesh: RunningMesh) -> None:
    first = await begun(mesh.operator, "tasks", task_type="work")
    await mesh.submit("t1")
    await first.until(lambda: "t1" in first.now)
    first.call.cancel()
    await mesh.submit("t2")
    await mesh.submit("other", task_type="else")
    again = await begun(mesh.operator, "tasks", task_type="work", after=first.position)
    assert (again.resets, [name for name, _ in again.changes]) == ([], ["t2"])


async def test_a_watch_without_conditions_goes_on_though_nobody_watched(mesh: RunningMesh) -> None:
    first = await begun(mesh.operator, "agents")
    mesh_feeds = first.position
    await mesh.agent("a1", capabilities=["else"])
    position = watch_pb2.WatchPosition(epoch=mesh_feeds.epoch, revision=mesh_feeds.revision)
    again = await begun(mesh.operator, "agents", after=position)
    assert (again.resets, [*again.now]) == ([], ["a1"])


@pytest.mark.parametrize(
    ("epoch", "revision", "reason"),
    [
        (1, 0, watch_pb2.RESET_REASON_EPOCH),
        (0, 10_000, watch_pb2.RESET_REASON_HISTORY),
        (0, -1, watch_pb2.RESET_REASON_HISTORY),
    ],
)
async def test_a_position_that_is_not_covered_begins_anew(
    mesh: RunningMesh, epoch: int, revision: int, reason: int
) -> None:
    await mesh.submit("t1")
    first = await begun(mesh.operator, "tasks")
    position = watch_pb2.WatchPosition(epoch=first.position.epoch + epoch, revision=revision)
    again = await begun(mesh.operator, "tasks", after=position)
    assert (again.resets, [*again.now]) == ([reason], ["t1"])


async def test_a_snapshot_is_cut_and_what_changes_meanwhile_is_not_lost(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MAX_CHUNK_ITEMS", 10)
    specs = [task_pb2.TaskSpec(task_id=f"t{n:04}", task_type="work") for n in range(400)]
    request = scheduler_service_pb2.SubmitTasksRequest(namespace="default", specs=specs)
    await mesh.operator.scheduler.SubmitTasks(request)
    seen = Seen(mesh.operator, "tasks")
    await seen.read()
    assert seen.position is None
    cancel = scheduler_service_pb2.CancelTaskRequest(namespace="default", task_id="t0000")
    await mesh.operator.scheduler.CancelTask(cancel)
    await mesh.submit("new")
    await seen.until(lambda: seen.position is not None)
    await seen.until(lambda: "new" in seen.now)
    assert len(seen.now) == 401
    assert seen.now["t0000"].state == task_pb2.TASK_STATE_CANCELLED
    assert seen.resets == [watch_pb2.RESET_REASON_START]


async def test_messages_are_cut_by_bytes(mesh: RunningMesh) -> None:
    labels = {f"label-{number}": "x" * 256 for number in range(32)}
    specs = [task_pb2.TaskSpec(task_id=f"t{n}", task_type="work", labels=labels) for n in range(90)]
    seen = await begun(mesh.operator, "tasks")
    request = scheduler_service_pb2.SubmitTasksRequest(namespace="default", specs=specs)
    await mesh.operator.scheduler.SubmitTasks(request)
    await seen.until(lambda: len(seen.now) == 90)
    fresh = await begun(mesh.operator, "tasks")
    assert len(fresh.now) == 90
    for sizes in (seen.sizes, fresh.sizes):
        assert len(sizes) > 10
        assert max(sizes) <= feeds.MAX_MESSAGE_BYTES + 64


async def test_a_stalled_watcher_delays_nobody_and_is_told_of_its_gap(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MAX_LOG_ENTRIES", 50)
    # A window of the connection that does not grow: what the watcher does not read stays with meshd.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(mesh.socket, options=options) as channel:
        stalled = await begun(Stubs(channel), "tasks")
        await _outrun(mesh, stalled)


async def _outrun(mesh: RunningMesh, stalled: Seen) -> None:
    labels = {f"label-{number}": "x" * 256 for number in range(8)}
    quick = await begun(mesh.operator, "tasks")
    for batch in range(50):
        names = [f"t{batch}-{n}" for n in range(20)]
        specs = [task_pb2.TaskSpec(task_id=name, task_type="work", labels=labels) for name in names]
        request = scheduler_service_pb2.SubmitTasksRequest(namespace="default", specs=specs)
        await mesh.operator.scheduler.SubmitTasks(request)
        await quick.until(lambda: f"t{batch}-19" in quick.now)  # noqa: B023 - awaited in the same round
    assert len(quick.now) == 1_000
    assert quick.resets == [watch_pb2.RESET_REASON_START]
    await stalled.until(lambda: len(stalled.now) == 1_000 and stalled.position is not None)
    assert stalled.resets == [watch_pb2.RESET_REASON_START, watch_pb2.RESET_REASON_BEHIND]


async def test_a_watch_stays_in_its_namespace(mesh: RunningMesh) -> None:
    create = namespace_service_pb2.CreateNamespaceRequest(name="other")
    await mesh.operator.namespaces.CreateNamespace(create)
    stubs = mesh.stubs(await mesh.token("m1", "MONITOR"))
    for what in ("agents", "tasks"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Seen(stubs, what, namespace="other").read()
        assert reason_of(caught.value) == "NAMESPACE_MISMATCH"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Seen(mesh.operator, what, namespace="").read()
        assert reason_of(caught.value) == "FIELD_REQUIRED"
    own = await begun(stubs, "tasks", namespace="")
    spec = task_pb2.TaskSpec(task_id="foreign", task_type="work")
    foreign = scheduler_service_pb2.SubmitTaskRequest(namespace="other", spec=spec)
    await mesh.operator.scheduler.SubmitTask(foreign)
    await mesh.submit("t1")
    await own.until(lambda: "t1" in own.now)
    assert [*own.now] == ["t1"]


async def test_who_may_not_read_tasks_watches_none_but_finds_agents(mesh: RunningMesh) -> None:
    stubs = mesh.stubs(await mesh.token("g1", "GOVERNOR"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await Seen(stubs, "tasks").read()
    assert reason_of(caught.value) == "ACCESS_DENIED"
    await begun(stubs, "agents")


async def test_revocation_ends_a_watch(mesh: RunningMesh) -> None:
    stubs = mesh.stubs(await mesh.token("m1", "MONITOR"))
    seen = await begun(stubs, "agents")
    request = auth_service_pb2.RevokeTokenRequest(namespace="default", agent_id="m1")
    assert (await mesh.operator.auth.RevokeToken(request)).streams_ended == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(seen.call.read(), 1)
    assert reason_of(caught.value) == "TOKEN_REVOKED"


@pytest.mark.parametrize(
    ("what", "request_fields"),
    [
        ("agents", {"type": 99}),
        ("agents", {"any_capabilities": ["Not A Skill"]}),
        ("tasks", {"states": [99]}),
        ("tasks", {"agent_id": "Not An Id"}),
    ],
)
async def test_a_condition_that_means_nothing_is_refused(
    mesh: RunningMesh, what: str, request_fields: dict[str, Any]
) -> None:
    assert await refused(Seen(mesh.operator, what, **request_fields).call.read()) == "INVALID_ARGUMENT"
