"""The outbox of a stream: what an agent that reads can have outstanding fits, nothing grows beyond, and a closed one ends."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Ack
from meshd.domain.limits import MAX_SLOTS, SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.state import Counter, Namespace
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, NamespaceInfo, Session
from meshd.engine import streams
from meshd.engine.streams import FRAMES_BESIDES, FRAMES_PER_SLOT, AgentStream

pytestmark = pytest.mark.anyio
ACK = Ack(b"fence")


def stream_of(slots: int | None) -> AgentStream:
    """Return the stream of an agent with so many slots, or one whose session is not known yet."""
    rules = SessionRules()
    info = NamespaceInfo("default", "", 0, 1)
    stream = AgentStream(Namespace(info, rules, Fleet(rules), Counter(1), Random(1)))
    if slots is not None:
        agent = Agent("default", AgentSpec("a", AgentType.WORKER, slots=slots), 0, Health.HEALTHY, 0, "")
        stream.session = Session("s", agent, b"", b"", slots, 0)
    return stream


def refusal_of(stream: AgentStream) -> Refusal | None:
    return stream.refusal


def fill(stream: AgentStream, frames: int) -> None:
    for _ in range(frames):
        stream.push(ACK)


async def blocked(stream: AgentStream) -> None:
    """Take what is there, as the writer does, and wait for a peer that does not read."""
    await stream.take()
    await asyncio.Event().wait()


@pytest.mark.parametrize(("slots", "counted"), [(None, MAX_SLOTS), (0, 0), (50, 50), (MAX_SLOTS, MAX_SLOTS)])
async def test_the_outbox_is_bounded_by_the_slots(slots: int | None, counted: int) -> None:
    stream = stream_of(slots)
    most = FRAMES_BESIDES + FRAMES_PER_SLOT * counted
    fill(stream, most)
    assert refusal_of(stream) is None
    stream.push(ACK)
    refusal = refusal_of(stream)
    assert refusal is not None
    assert refusal.reason is Reason.OVERLOADED
    assert str(most) in refusal.message
    stream.push(ACK)
    assert await stream.take() == [], "what waited is let go"


async def test_who_lowers_the_slots_still_gets_the_answers_about_them() -> None:
    stream = stream_of(50)
    assert stream.session is not None
    stream.session.slots = 0
    fill(stream, FRAMES_BESIDES + FRAMES_PER_SLOT * 50)
    assert stream.refusal is None


async def test_an_overfull_stream_ends_though_its_peer_does_not_read() -> None:
    stream = stream_of(0)
    stream.push(ACK)
    stream.writer = asyncio.create_task(blocked(stream))
    await asyncio.sleep(0)
    fill(stream, FRAMES_BESIDES + 1)
    async with asyncio.timeout(10):
        await asyncio.wait({stream.writer})
    assert stream.writer.cancelled()


async def test_a_closed_stream_ends_though_its_peer_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CLOSE_S", 0.01)
    stream = stream_of(1)
    stream.push(ACK)
    stream.writer = asyncio.create_task(blocked(stream))
    await asyncio.sleep(0)
    stream.close()
    async with asyncio.timeout(10):
        await asyncio.wait({stream.writer})
    assert stream.writer.cancelled()


async def test_what_was_let_out_before_the_end_is_written() -> None:
    stream = stream_of(1)
    stream.push(ACK)
    stream.close()
    stream.push(ACK)
    assert await stream.take() == [ACK]
    assert await stream.take() == []
