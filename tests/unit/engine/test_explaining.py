"""A task is explained by the whole fleet, while others have their turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from meshd.domain.explain import Verdict, best_verdicts, explanation
from meshd.domain.limits import SEARCHED_AT_ONCE
from meshd.domain.values import Agent, AgentSpec, AgentType, Health, TaskState
from meshd.engine import selection
from meshd.engine.explaining import explain
from tests.unit.domain.world import World

pytestmark = pytest.mark.anyio


def large_world() -> World:
    """Many agents that lack the skill, among them some that have it and do not run; one that runs comes last."""
    world = World()
    for number in range(2 * SEARCHED_AT_ONCE):
        skills = frozenset(("work",)) if number % 100 == 0 else frozenset[str]()
        spec = AgentSpec(f"a{number:04}", AgentType.WORKER, capabilities=skills)
        world.ns.add_agent(Agent("default", spec, 0, Health.LOST, 0, "its host is gone"))
    world.agent("z", slots=1)
    for name in ("t1", "t2", "t3"):
        world.submit(name)
    world.submit("urgent", priority=9)
    return world


async def test_the_best_of_all_agents_come_first() -> None:
    world = large_world()
    task = world.task("t3")
    found = await explain(world.ns, task, 30)
    assert found.verdicts == best_verdicts(task, world.ns.agents.values(), time.monotonic(), 30)
    assert found.verdicts[0].agent.spec.agent_id == "z"
    assert found.verdicts[1].verdict is Verdict.NOT_RUNNING
    assert len(found.verdicts) == 30
    assert found.queue_position == 2
    assert found.summary == "z in default can, but its slot is in use"


async def test_what_changes_meanwhile_is_explained_as_it_is_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "LOOK_S", 0.0)
    world = large_world()
    task, changing = world.task("t3"), world.ns.agents["a0000"]

    def change() -> None:
        task.state = TaskState.WAITING
        changing.health_cause = "it said goodbye"

    asyncio.get_running_loop().call_soon(change)
    found = await explain(world.ns, task, 30)
    assert task.state is TaskState.WAITING
    assert found.summary.startswith("attempt")
    # Counted or not, a task that is queued no more has no place in a queue.
    assert explanation(world.ns, task, found.verdicts, 2).queue_position == 0
    shown = {verdict.agent: verdict.detail for verdict in found.verdicts}
    assert shown[changing] == "can, but is not running: it said goodbye"
