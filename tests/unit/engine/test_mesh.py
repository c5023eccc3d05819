"""The engine around the domain: its clock at a start, and a domain that breaks its own rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshd.domain.limits import SessionRules
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, Now, Session
from meshd.engine import mesh as mesh_module
from meshd.engine.mesh import Mesh
from meshd.ops.metrics import Metrics
from meshd.ports.store import StorageError
from meshd.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def failures() -> list[StorageError]:
    return []


@pytest.fixture
async def mesh(tmp_path: Path, failures: list[StorageError]) -> AsyncIterator[Mesh]:
    """A mesh just built, to which one agent may return."""
    store = SqliteStore(tmp_path, 1)
    restored = store.load()
    agent = Agent("default", AgentSpec("a", AgentType.WORKER), 0, Health.HEALTHY, 0, "")
    agent.session = Session("s1", agent, b"", b"", 1, 0)
    restored.agents.append(agent)
    mesh = Mesh(store, restored, SessionRules(), Metrics(), failures.append)
    yield mesh
    mesh.closing = True
    mesh._sweeper.cancel()
    await mesh.commits.close()
    store.close()


async def test_the_hold_and_the_pauses_count_from_the_beginning(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = mesh._clock().mono + 1_000.0
    monkeypatch.setattr(mesh, "_clock", lambda: Now(listening, 0))
    mesh.begin()
    mesh._sweep()
    (session,) = mesh.sessions()
    assert session.last_seen_mono + session.lease.ttl_ms / 1000 == mesh.fleet.hold_until_mono
    assert mesh.fleet.hold_until_mono == listening + SessionRules().hold_min_ms / 1000


async def test_a_sweep_that_breaks_a_rule_stops_the_daemon_once(
    mesh: Mesh, failures: list[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a rule")

    monkeypatch.setattr(mesh_module, "expire", broken)
    mesh._sweep()
    mesh._sweep()
    assert ["in doubt" in str(failure) for failure in failures] == [True]
    assert mesh.commits.failed
