"""Assignments that no message on their stream can carry: their tasks end, their agents work on."""

from __future__ import annotations

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.values import OutcomeReason, TaskState
from tests.unit.domain.world import ALL_FEATURES, World, fence


@pytest.mark.parametrize("features", [ALL_FEATURES, frozenset()], ids=["full", "minimal"])
def test_an_assignment_that_cannot_be_sent_fails_its_task_and_frees_the_slot(
    features: frozenset[int],
) -> None:
    world = World()
    session, stream = world.agent("a", features=features)
    world.submit("t1")
    world.do(c.Unsendable(stream, stream.of(f.Assign)[0], 1_000))
    task = world.task("t1")
    assert (task.state, task.outcome) == (TaskState.FAILED, OutcomeReason.NOT_RETRYABLE)
    assert task.failure is not None
    assert task.failure.type == "PayloadTooLarge"
    # The agent has done nothing: it is told nothing, and nothing counts against it.
    assert not stream.of(f.Ack)
    assert session.agent.failed == 0
    world.submit("t2")
    assert stream.of(f.Assign)[-1].task_id == "t2"


def test_an_assignment_that_cannot_be_sent_while_its_task_is_cancelled_ends_it_as_cancelled() -> None:
    world = World()
    _, stream = world.agent("a")
    world.submit("t1")
    world.do(c.Cancel(None, "t1", 10_000))
    world.do(c.Unsendable(stream, stream.of(f.Assign)[0], 1_000))
    assert world.task("t1").state is TaskState.CANCELLED


def test_what_could_not_be_sent_on_a_stream_before_does_not_count_on_the_next() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    unsendable = c.Unsendable(stream, stream.of(f.Assign)[0], 1_000)
    world.break_stream(session)
    world.do(unsendable)
    again = world.open(session)
    world.do(unsendable)
    assert world.task("t1").state is TaskState.ASSIGNED
    world.send(session, f.Decline(fence(again), "", 1_000))
    # Nor does the fence of an attempt that is over.
    world.do(c.Unsendable(again, again.of(f.Assign)[0], 1_000))
    assert world.task("t1").state is TaskState.QUEUED


def test_the_slot_of_what_was_void_before_it_could_be_sent_is_free() -> None:
    world = World()
    session, stream = world.agent("a", slots=1)
    world.submit("t1")
    world.do(c.Cancel(None, "t1", 100))
    world.wait(0.5)
    assert session.quarantine, "the agent may run it, as far as is known"
    world.do(c.Unsendable(stream, stream.of(f.Assign)[0], 1_000))
    assert not session.quarantine
    world.submit("t2")
    assert stream.of(f.Assign)[-1].task_id == "t2"
