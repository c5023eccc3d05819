"""The pace of beats on the wire: told in Opened and LeaseAck, named by the agent, shown by the status."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentmesh.v1 import registry_service_pb2 as pb
from agentmesh.v1 import session_pb2
from meshd import daemon
from meshd.domain import pacing
from tests.wire.mesh.conftest import HandMadeAgent, RunningMesh, running_mesh

pytestmark = pytest.mark.anyio


async def hung_ms(mesh: RunningMesh) -> int:
    status = await mesh.operator.registry.GetMeshStatus(pb.GetMeshStatusRequest())
    bound: int = status.bounds.hung.ToMilliseconds()
    return bound


async def beaten_until_paced(agent: HandMadeAgent) -> session_pb2.LeaseAck:
    """Beat until the mesh prescribes another pace."""

    async def beat() -> None:
        while True:
            await agent.send(beat=session_pb2.Beat(seq=1))
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    try:
        async with asyncio.timeout(10):
            while not (ack := (await agent.expect("lease_ack")).lease_ack).HasField("lease_ttl"):
                pass
    finally:
        beating.cancel()
    return ack


async def test_the_pace_follows_the_fleet(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await mesh.agent("a1")
    assert agent.registered.limits.lease_ttl.ToMilliseconds() == 3_500
    assert await hung_ms(mesh) == 5_000

    monkeypatch.setattr(pacing, "MS_PER_SESSION", 2_000)
    ack = await beaten_until_paced(agent)
    assert (ack.beat_interval.ToMilliseconds(), ack.lease_ttl.ToMilliseconds()) == (2_200, 7_700)
    assert await hung_ms(mesh) == 9_200
    opened = await agent.open()
    assert opened.limits.lease_ttl.ToMilliseconds() == 7_700

    monkeypatch.setattr(pacing, "MS_PER_SESSION", 2)
    assert (await beaten_until_paced(agent)).lease_ttl.ToMilliseconds() == 3_500
    assert await hung_ms(mesh) == 9_200, "the agent has not said yet that it goes by the new pace"
    beat = session_pb2.Beat(seq=2)
    beat.lease_ttl.FromMilliseconds(3_500)
    await agent.send(beat=beat)
    await mesh.submit("t1")
    await agent.expect("assign")
    assert await hung_ms(mesh) == 5_000


async def test_pings_follow_the_sessions_that_are_known_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "ping_interval_ms", lambda setting_ms, sessions: setting_ms + 100 * sessions)

    async def keepalive_ms(mesh: RunningMesh) -> int:
        status = await mesh.operator.registry.GetMeshStatus(pb.GetMeshStatusRequest())
        assert status.bounds.unreachable.ToMilliseconds() == 2 * status.keepalive.ToMilliseconds() + 1_250
        pace: int = status.keepalive.ToMilliseconds()
        return pace

    async with running_mesh(tmp_path) as mesh:
        await mesh.agent("a1")
        assert await keepalive_ms(mesh) == 1_000
    async with running_mesh(tmp_path) as mesh:
        assert await keepalive_ms(mesh) == 1_100
