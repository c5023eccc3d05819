"""Pools: what nobody can take costs nothing later, however many requirement sets it is spread over."""

from __future__ import annotations

from typing import Any

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.placement import pools as pools_module
from meshd.domain.placement.pools import Pool
from meshd.domain.queue import TaskQueue
from meshd.domain.values import LabelCondition, LabelOperator, Requirements, TaskState
from tests.unit.domain.world import World, fence

MANY = 50

pytestmark = pytest.mark.skipif(
    not pools_module.__file__.endswith(".py"),
    reason="what is replaced in a compiled module is not called (ADR 14)",
)


class Calls:
    """Calls of a function since it was wrapped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.count = 0
        wrapped = getattr(owner, name)

        def counting(*args: Any) -> Any:
            self.count += 1
            return wrapped(*args)

        monkeypatch.setattr(owner, name, counting)


def _world_with_types_that_nobody_serves() -> World:
    world = World()
    for number in range(MANY):
        world.submit(f"lost-{number}", f"resize-{number}")
    return world


def test_a_round_does_not_look_at_what_nobody_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _world_with_types_that_nobody_serves()
    world.agent("a")
    looks = Calls(monkeypatch, TaskQueue, "head")
    world.submit("t", "work")
    assert world.task("t").state is TaskState.ASSIGNED
    assert looks.count < 10


def test_a_round_does_not_look_at_what_waits_for_agents_that_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.agent("full", can=tuple(f"skill-{number}" for number in range(MANY)))
    for number in range(MANY):
        world.submit(f"waits-{number}", f"skill-{number}")
    looks = Calls(monkeypatch, TaskQueue, "head")
    world.submit("t", "work")
    assert looks.count < 10


def test_a_new_requirement_set_does_not_look_at_agents_that_lack_its_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    for number in range(MANY):
        world.agent(f"a{number}", can=("work", f"skill-{number}"))
    looks = Calls(monkeypatch, Pool, "fits")
    world.submit("t", "resize-1")
    assert looks.count == 0
    # Of two required capabilities the rarer one leads.
    world.submit("u", "both", requirements=Requirements(frozenset(("work", "skill-7"))))
    assert looks.count == 1
    assert world.task("u").agent_id == "a7"


def test_an_agent_that_comes_does_not_look_at_requirements_it_cannot_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = _world_with_types_that_nobody_serves()
    world.submit("wanted", "work")
    looks = Calls(monkeypatch, Pool, "fits")
    session, _ = world.agent("a")
    assert looks.count == 1
    assert world.task("wanted").state is TaskState.ASSIGNED
    world.send(session, f.Bye(""))
    assert looks.count == 1


def test_a_preference_is_judged_once_for_each_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    wanted = Requirements(
        frozenset(("work",)),
        preferred_labels=(LabelCondition("gpu", LabelOperator.EXISTS, ()),),
    )
    for number in range(4):
        world.agent(f"a{number}", slots=MANY)
    looks = Calls(monkeypatch, pools_module, "score")
    for number in range(MANY):
        world.submit(f"t{number}", "work", requirements=wanted)
    assert looks.count == 4


def test_an_agent_that_comes_gets_what_waited_for_it() -> None:
    world = _world_with_types_that_nobody_serves()
    anybody = Requirements(frozenset())
    no_gpu = Requirements(frozenset(), (LabelCondition("gpu", LabelOperator.NOT_EXISTS, ()),))
    world.submit("any", "x", requirements=anybody)
    world.submit("plain", "x", requirements=no_gpu)
    world.agent("a", can=("resize-3", "resize-7"), slots=4)
    taken = {task.spec.task_id for task in world.ns.tasks.values() if task.state is TaskState.ASSIGNED}
    assert taken == {"any", "plain", "lost-3", "lost-7"}


def test_pools_without_tasks_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools_module, "MAX_IDLE_POOLS", 4)
    world = _world_with_types_that_nobody_serves()
    pools = world.ns.pools
    assert len(pools.by_requirements) == MANY
    session, stream = world.agent("a", can=("work", "resize-0"))
    for number in range(MANY):
        world.do(c.Cancel(None, f"lost-{number}", 0))
    assert len(pools.by_requirements) <= 5
    world.send(session, f.Stopped(fence(stream)))
    assert len(pools.by_requirements) == sum(map(len, pools._asking.values())) == len(pools._asking) == 4
    # What is forgotten comes again, with the agents who can.
    world.submit("again", "resize-0")
    assert world.task("again").state is TaskState.ASSIGNED


def test_the_pool_that_was_used_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools_module, "MAX_IDLE_POOLS", 2)
    world = World()
    world.submit("t", "work")
    kept = world.ns.pools.pool(world.task("t").spec.requirements)
    world.agent("a", slots=100)
    for number in range(MANY):
        world.submit(f"once-{number}", f"resize-{number}")
        world.do(c.Cancel(None, f"once-{number}", 0))
        world.submit(f"t{number}", "work")
    assert world.ns.pools.pool(world.task("t").spec.requirements) is kept
    assert len(world.ns.pools.by_requirements) == 2
