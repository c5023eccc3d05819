"""Many frames at once: one stream after the other, one large message in a turn of the mesh, however many wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh.v1 import scheduler_service_pb2, session_pb2
from meshd.domain.commands import Frames
from meshd.domain.effects import Effects
from meshd.domain.limits import MAX_MESSAGE_FRAMES
from meshd.domain.machine import handle
from meshd.domain.state import Namespace
from meshd.domain.values import Now
from meshd.engine import mesh as mesh_module
from meshd.ports.store import Store
from meshd.wire.services.sessions import FRAMES_AT_ONCE
from tests.wire.mesh.conftest import HandMadeAgent, RunningMesh


class HungStore:
    """Holds each commit until it is let go; everything else is the real store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.go = threading.Event()

    def commit(self, batch: Any) -> None:
        assert self.go.wait(30)
        self._store.commit(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Turns:
    """How many frames each turn of the mesh handled."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh.parts.mesh
        self.frames: list[int] = []
        self.agents: list[HandMadeAgent] = []

    async def until(self, count: int) -> None:
        """Wait until so many frames are handled."""
        async with asyncio.timeout(30):
            while sum(self.frames) < count:
                await self._mesh.turned()


@pytest.fixture
async def turns(mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Turns]:
    """Turns beside a commit that hangs: all that comes meanwhile is handled together, ten times a second."""
    turns = Turns(mesh)
    turns.agents = [await mesh.agent(f"a{number}", ()) for number in range(3)]

    def counted(ns: Namespace, batch: list[Any], now: Now, out: Effects) -> None:
        turns.frames.append(sum(len(command.frames) for command in batch if isinstance(command, Frames)))
        handle(ns, batch, now, out)

    monkeypatch.setattr(mesh_module, "handle", counted)
    commits = mesh.parts.mesh.commits
    store = HungStore(commits._store)
    monkeypatch.setattr(commits, "_store", store)
    submitted = asyncio.create_task(mesh.submit("t1", "other"))
    yield turns
    store.go.set()
    await submitted


async def send(agent: HandMadeAgent, messages: int, frames: int) -> None:
    """Send so many messages of so many beats."""
    beats = [session_pb2.AgentFrame(beat=session_pb2.Beat(seq=1))] * frames
    for _ in range(messages):
        await agent.call.write(scheduler_service_pb2.WorkRequest(frames=beats))


async def test_a_turn_handles_one_message_of_many_frames(turns: Turns) -> None:
    await asyncio.gather(*(send(agent, 4, MAX_MESSAGE_FRAMES) for agent in turns.agents))
    await turns.until(12 * MAX_MESSAGE_FRAMES)
    assert max(turns.frames) == MAX_MESSAGE_FRAMES


async def test_small_messages_of_one_turn_count_together(turns: Turns) -> None:
    each = FRAMES_AT_ONCE // 5
    await send(turns.agents[0], 20, each)
    await turns.until(20 * each)
    assert max(turns.frames) <= FRAMES_AT_ONCE + each
