"""A stream is asked for a fresh token before its own runs out."""

from __future__ import annotations

import time

from agentmesh.v1 import session_pb2
from meshd.engine.token_streams import ASK_BEFORE_MS, EXPIRY_GRACE_MS
from tests.wire.mesh.conftest import FULL, HandMadeAgent, RunningMesh

SHORT_S = 30
"""Shorter than the time ahead at which is asked: the stream is asked at once."""


async def opened(mesh: RunningMesh, ttl_s: int, features: tuple[int, ...] = FULL) -> HandMadeAgent:
    agent = HandMadeAgent(mesh.stubs(await mesh.token("a1", ttl_s=ttl_s)), "a1", features)
    await agent.register()
    await agent.open()
    return agent


async def test_a_stream_is_asked_with_the_time_at_which_it_ends(mesh: RunningMesh) -> None:
    assert SHORT_S * 1_000 < ASK_BEFORE_MS
    agent = await opened(mesh, SHORT_S)
    asked = (await agent.expect("reauthenticate")).reauthenticate
    left_s = asked.by.ToSeconds() - time.time()
    assert SHORT_S - 10 < left_s - EXPIRY_GRACE_MS / 1_000 <= SHORT_S
    # A fresh token that runs out as soon is asked for again; one for an hour is not.
    await agent.send(fresh_token=session_pb2.FreshToken(token=await mesh.token("a1", ttl_s=SHORT_S)))
    await agent.expect("reauthenticate")
    await agent.send(fresh_token=session_pb2.FreshToken(token=await mesh.token("a1")))
    await mesh.submit("t1")
    assert await kinds_until(agent, "assign") == ["assign"]
    agent.call.cancel()


async def test_who_did_not_negotiate_it_is_not_asked(mesh: RunningMesh) -> None:
    agent = await opened(mesh, SHORT_S, ())
    await mesh.submit("t1")
    assert await kinds_until(agent, "assign") == ["assign"]
    agent.call.cancel()


async def kinds_until(agent: HandMadeAgent, last: str) -> list[str]:
    """Return the kinds of frames up to and including one, beats' answers left out."""
    seen: list[str] = []
    while last not in seen:
        while not agent.frames:
            agent.frames += (await agent.call.read()).frames
        kind = str(agent.frames.pop(0).WhichOneof("frame"))
        if kind != "lease_ack":
            seen.append(kind)
    return seen
