"""The steps of a task as the batches tell them, in order, each once."""

from __future__ import annotations

from typing import Any

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.engine.task_steps import steps_of
from meshd.ports.task_steps import Step
from tests.unit.domain.world import World

Seen = tuple[Step, int, str, str]


class FollowedWorld(World):
    """Keeps the steps of every task."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, list[Seen]] = {}

    def _release(self, out: Effects) -> list[Any]:
        for step in steps_of(out.writes):
            seen = self.steps.setdefault(step.task.spec.task_id, [])
            seen.append((step.step, step.attempt, step.agent_id, step.detail))
        return super()._release(out)


@pytest.fixture
def world() -> FollowedWorld:
    return FollowedWorld()


def test_a_task_from_submit_to_its_end(world: FollowedWorld) -> None:
    world.submit("t1")
    session, stream = world.agent("a")
    fence = stream.of(f.Assign)[0].fence
    world.send(session, f.Accept(fence))
    world.send(session, f.Done(fence, b""))
    assert world.steps["t1"] == [
        (Step.SUBMITTED, 0, "", "work"),
        (Step.ASSIGNED, 1, "a", ""),
        (Step.ENDED, 1, "a", "succeeded/completed"),
    ]


def test_losses_declines_and_failures_name_their_attempt(world: FollowedWorld) -> None:
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Decline(stream.of(f.Assign)[0].fence, "busy", 60_000))
    other, stream = world.agent("b")
    world.do(c.RevokeAgent(None, "b"))
    world.agent("c", features=frozenset())
    third, fence = world.ns.sessions["c-1"], world.task("t1").fence
    world.send(third, f.Fail(fence, "OutOfInk", "", False))
    assert world.steps["t1"] == [
        (Step.SUBMITTED, 0, "", "work"),
        (Step.ASSIGNED, 1, "a", ""),
        (Step.RETURNED, 1, "a", ""),
        (Step.ASSIGNED, 2, "b", ""),
        (Step.LOST, 2, "b", ""),
        (Step.ASSIGNED, 3, "c", ""),
        (Step.FAILED, 3, "c", "OutOfInk"),
        (Step.ENDED, 3, "c", "failed/not_retryable"),
    ]
    assert other.session_id not in world.ns.sessions


def test_a_cancel_shows_when_it_is_asked_for_and_when_it_is_done(world: FollowedWorld) -> None:
    session, stream = world.agent("a")
    world.submit("t1")
    world.submit("t2")
    world.do(c.Cancel(None, "t2", 0))
    world.do(c.Cancel(None, "t1", 1_000))
    world.send(session, f.Stopped(stream.of(f.Assign)[0].fence))
    assert world.steps["t2"][1:] == [(Step.ENDED, 0, "", "cancelled/cancel_requested")]
    assert world.steps["t1"][2:] == [
        (Step.STOPPING, 1, "a", "cancel_requested"),
        (Step.STOPPED, 1, "a", ""),
        (Step.ENDED, 1, "a", "cancelled/cancel_requested"),
    ]
