"""Agents that send and do not read, or break off: their streams end, and what waited for them is let go."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from weakref import ref

import grpc.aio
import pytest

from agentmesh.v1 import scheduler_service_pb2, session_pb2
from meshd.domain.frames import Drain
from meshd.domain.limits import MAX_MESSAGE_FRAMES
from meshd.engine import streams
from meshd.engine.streams import AgentStream
from meshd.wire import chain
from tests.wire.mesh.conftest import RunningMesh, refused


def only_stream(mesh: RunningMesh) -> AgentStream:
    (stream,) = mesh.parts.mesh.streams
    return stream


async def ended(stream: AgentStream) -> None:
    """Wait until a stream's writer has ended."""
    assert stream.writer is not None
    async with asyncio.timeout(20):
        await asyncio.wait({stream.writer})


async def test_a_stream_whose_answers_nobody_reads_ends_with_a_reason(mesh: RunningMesh) -> None:
    agent = await mesh.agent("deaf", slots=1)
    stream = only_stream(mesh)
    message = scheduler_service_pb2.WorkRequest(
        frames=[
            session_pb2.AgentFrame(accept=session_pb2.Accept(fence=b"nobody %5d" % number))
            for number in range(MAX_MESSAGE_FRAMES)
        ]
    )

    async def flood() -> None:
        while stream.refusal is None:
            await agent.call.write(message)

    flooding = asyncio.create_task(flood())
    await ended(stream)
    assert len(stream._outbox) == 0
    assert await refused(agent.expect("ack")) == "OVERLOADED"
    assert "read it while you send" in await agent.call.details()
    # What was under way when the stream ended is refused.
    await asyncio.gather(flooding, return_exceptions=True)
    await agent.register()
    await agent.open()


async def test_a_stream_that_another_one_replaces_ends_though_nobody_reads_it(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CLOSE_S", 0.05)
    agent = await mesh.agent("deaf")
    stream = only_stream(mesh)
    for _ in range(9_000):
        stream.push(Drain("x" * 1_000))
    await agent.open()
    await ended(stream)
    assert stream not in mesh.parts.mesh.streams
    await mesh.submit("t1")
    await agent.expect("assign")


async def test_a_stream_that_breaks_under_a_write_is_let_go_at_once(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = False
    encoded_or = chain._encoded_or

    def breaking(serialize: Any) -> Any:
        encoded = encoded_or(serialize)

        def encoded_unless_broken(message: Any) -> bytes:
            if broken:
                raise grpc.aio.InternalError("the batch failed")
            return encoded(message)

        return encoded_unless_broken

    incidents: list[object] = []
    monkeypatch.setattr(chain, "_encoded_or", breaking)
    monkeypatch.setattr("meshd.daemon.log.error", lambda *_args, **fields: incidents.append(fields))
    agent = await mesh.agent("gone")
    gone = ref(only_stream(mesh))
    gc.disable()
    try:
        broken = True
        await mesh.submit("t1")
        for _ in range(1_000):
            if not mesh.parts.mesh.streams and gone() is None:
                break
            await asyncio.sleep(0.01)
    finally:
        gc.enable()
    agent.call.cancel()
    assert not mesh.parts.mesh.streams
    assert gone() is None
    assert incidents == []
    page = (await asyncio.to_thread(mesh.metrics.page)).decode()
    assert 'meshd_calls_handled_total{code="CANCELLED",method="Work"} 1.0' in page
