"""What the log tells an operator of lost agents and poisoned tasks: enough to act, and one line of many."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from meshd.domain.commands import RevokeAgent
from meshd.domain.effects import Effects
from meshd.domain.limits import SessionRules
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, OutcomeReason, Session, TaskState
from meshd.engine import notices
from meshd.engine.mesh import Mesh
from meshd.ops.metrics import Metrics
from meshd.store.sqlite import SqliteStore
from tests.unit.store.samples import an_ended_task

pytestmark = pytest.mark.anyio


def loss_of(*agent_ids: str, cause: str = "its connection ended") -> Effects:
    out = Effects()
    out.count("lost", "connection", 0)
    out.changed_agents = [
        Agent("default", AgentSpec(agent_id, AgentType.WORKER), 0, Health.LOST, 0, cause)
        for agent_id in agent_ids
    ]
    # Others change in the same turn.
    out.changed_agents.append(Agent("default", AgentSpec("well", AgentType.WORKER), 0, Health.HEALTHY, 0, ""))
    return out


async def test_a_mass_loss_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "GATHERED_S", 0.01)
    told = notices.Notices()
    with structlog.testing.capture_logs() as logged:
        for turn in range(10):
            told.note("blue", loss_of(*(f"w{turn}-{number}" for number in range(100))))
        told.note("red", loss_of("w", cause="its identity was revoked"))
        assert not logged
        written = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, written.set)
        await written.wait()
        told.write()
    (line,) = logged
    assert (line["event"], line["count"]) == ("agents lost", 1_001)
    assert line["agents"] == [f"blue/w0-{number}" for number in range(5)]
    assert line["causes"] == {"its connection ended": 1_000, "its identity was revoked": 1}


async def test_a_poisoned_task_is_named_and_the_next_one_too() -> None:
    told = notices.Notices()
    lines: list[Any] = []
    for key in (1, 2):
        out = Effects()
        task = an_ended_task(key, 1)
        task.outcome = OutcomeReason.POISON
        out.changed = [task]
        out.ended[TaskState.FAILED, OutcomeReason.POISON] = 1
        told.note("blue", out)
        with structlog.testing.capture_logs() as logged:
            told.write()
        lines += logged
    assert [(line["count"], line["tasks"]) for line in lines] == [(1, ["blue/t1"]), (1, ["blue/t2"])]


async def test_the_mesh_says_whom_it_lost(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, 1)
    restored = store.load()
    (agent,) = loss_of("a").changed_agents[:1]
    agent.health, agent.session = Health.HEALTHY, Session("s1", agent, b"", b"", 1, 0)
    restored.agents.append(agent)
    mesh = Mesh(store, restored, SessionRules(), Metrics(), lambda error: None)
    await mesh.ask(mesh.namespaces["default"], lambda ticket: RevokeAgent(ticket, "a"))
    with structlog.testing.capture_logs() as logged:
        await mesh.shutdown()
    store.close()
    (line,) = logged
    assert (line["agents"], line["causes"]) == (["default/a"], {"its identity was revoked": 1})


async def test_what_changes_by_itself_says_nothing() -> None:
    told = notices.Notices()
    out = loss_of("again")
    out.counts.clear()
    with structlog.testing.capture_logs() as logged:
        told.note("blue", out)
        told.write()
    assert not logged
