"""Stages of tasks are measured from the batches that are written, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.machine import handle
from meshd.domain.state import Namespace
from meshd.engine import gauges, stages
from meshd.ports.observer import Stage
from tests.unit.domain.world import World


class StageObserver:
    """Keeps what was measured, as {(stage, milliseconds): count}."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[Stage, int]] = Counter()

    def staged(self, stage: Stage, namespace: str, count_by_ms: Mapping[int, int]) -> None:
        assert namespace == "default"
        for ms, count in count_by_ms.items():
            self.seen[stage, ms] += count


class MeasuredWorld(World):
    """Every batch is written at once, and takes 2 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.observer: Any = StageObserver()

    def _release(self, out: Effects) -> list[Any]:
        stages.taken(out.writes, self.observer)
        stages.durable(out.writes, self.now.wall_ms + 2, self.observer)
        return super()._release(out)

    def pass_ms(self, ms: int) -> None:
        self.mono += ms / 1_000


@pytest.fixture
def world() -> MeasuredWorld:
    return MeasuredWorld()


def test_a_task_is_measured_at_every_stage_once(world: MeasuredWorld) -> None:
    world.submit("t1")
    world.pass_ms(40)
    session, stream = world.agent("a")
    fence = stream.of(f.Assign)[0].fence
    world.pass_ms(10)
    world.send(session, f.Accept(fence))
    world.pass_ms(500)
    world.send(session, f.Done(fence, b""))
    assert world.observer.seen == {
        (Stage.DURABLE, 2): 1,
        (Stage.ASSIGNED, 40): 1,
        (Stage.ACCEPTED, 10): 1,
        (Stage.RAN, 500): 1,
        (Stage.SUCCEEDED, 550): 1,
    }


def test_later_attempts_do_not_count_as_waiting_for_the_first(world: MeasuredWorld) -> None:
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Fail(stream.of(f.Assign)[0].fence, "E", "", True))
    while len(stream.of(f.Assign)) < 2:
        world.wait(0.25)
        world.send(session, f.Beat(1))
    world.pass_ms(10)
    world.send(session, f.Accept(stream.of(f.Assign)[1].fence), f.Done(stream.of(f.Assign)[1].fence, b""))
    assert world.observer.seen[Stage.ASSIGNED, 0] == 1
    assert sum(n for (stage, _), n in world.observer.seen.items() if stage is Stage.ASSIGNED) == 1
    assert sum(n for (stage, _), n in world.observer.seen.items() if stage is Stage.SUCCEEDED) == 1


def test_a_cancelled_attempt_is_not_taken_for_an_assigned_one(world: MeasuredWorld) -> None:
    session, stream = world.agent("a")
    world.submit("t1")
    world.pass_ms(100)
    world.do(c.Cancel(None, "t1", 1_000))
    world.send(session, f.Stopped(stream.of(f.Assign)[0].fence))
    assert world.observer.seen == {(Stage.DURABLE, 2): 1, (Stage.ASSIGNED, 0): 1}


def test_a_result_without_accept_is_measured_as_far_as_it_can_be(world: MeasuredWorld) -> None:
    session, stream = world.agent("a")
    world.submit("t1")
    world.pass_ms(30)
    world.send(session, f.Done(stream.of(f.Assign)[0].fence, b""))
    assert world.observer.seen == {(Stage.DURABLE, 2): 1, (Stage.ASSIGNED, 0): 1, (Stage.SUCCEEDED, 30): 1}


def unplaceable(ns: Namespace) -> int:
    return gauges._measure(ns, 0, 0).unplaceable


def test_tasks_that_no_agent_in_reach_can_take_are_counted(world: MeasuredWorld) -> None:
    session, _ = world.agent("a")
    for number in range(3):
        world.submit(f"busy-{number}")
        world.submit(f"odd-{number}", "welding")
    assert unplaceable(world.ns) == 3, "tasks that wait for a busy agent have a taker"
    world.break_stream(session)
    assert unplaceable(world.ns) == 3 + 2
    welder, _ = world.agent("b", slots=4, can=("welding",))
    assert unplaceable(world.ns) == 2
    out = Effects()
    handle(world.ns, [c.Cancel(None, f"busy-{n}", 0) for n in (1, 2)], world.now, out)
    assert unplaceable(world.ns) == 0
    world.send(welder, f.Slots(0))
    world.submit("late", "welding")
    assert unplaceable(world.ns) == 1, "an agent that takes nothing new is no taker"
