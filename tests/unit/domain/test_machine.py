"""The rules of tasks, attempts and sessions, one promise a test."""

from __future__ import annotations

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import (
    AttemptState,
    Health,
    OutcomeReason,
    RetryPolicy,
    Strategy,
    TaskState,
)
from tests.unit.domain.world import FakeStream, World, fence


def test_a_task_runs_and_its_result_is_acknowledged() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    assert world.task("t1").state is TaskState.RUNNING
    world.send(session, f.Done(fence(stream), b"result"))
    task = world.task("t1")
    assert task.state is TaskState.SUCCEEDED
    assert task.outcome is OutcomeReason.COMPLETED
    assert world.outputs[task.key] == b"result"
    assert stream.of(f.Ack) == [f.Ack(fence(stream))]
    assert session.free_slots == 1


def test_a_second_report_with_the_same_fence_changes_nothing() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Done(fence(stream), b"one"))
    world.send(session, f.Done(fence(stream), b"two"), f.Fail(fence(stream), "E", "", True))
    assert world.outputs[world.task("t1").key] == b"one"
    assert world.task("t1").state is TaskState.SUCCEEDED
    assert len(stream.of(f.Revoke)) == 2


def test_same_id_same_content_is_the_same_task_and_other_content_is_refused() -> None:
    world = World()
    assert not world.submit("t1").existed
    assert world.submit("t1").existed
    refused = world.submit("t1", digest=b"other")
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.TASK_EXISTS


def test_an_ended_task_is_still_recognised() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Done(fence(stream), b""))
    assert world.submit("t1").existed
    assert isinstance(world.submit("t1", digest=b"other"), Refusal)


def test_a_submit_looks_again_when_memory_may_have_moved_past_the_store() -> None:
    world = World()
    world.ns.ended_count = 10_000
    replies = world.do(c.Submit(None, [], "s", {}, 0, False))
    assert replies == [c.LookAgain()]


def test_priority_then_arrival_decides() -> None:
    world = World()
    for name, priority in (("low", 2), ("first", 5), ("second", 5), ("high", 9)):
        world.submit(name, priority=priority)
    session, stream = world.agent("a", slots=1)
    order = []
    for _ in range(4):
        order.append(stream.of(f.Assign)[-1].task_id)
        world.send(session, f.Done(fence(stream), b""))
    assert order == ["high", "first", "second", "low"]


def test_a_returned_task_keeps_its_place() -> None:
    world = World()
    session, stream = world.agent("a", slots=1)
    world.submit("t1")
    world.submit("t2")
    world.send(session, f.Decline(fence(stream), "not now", 100))
    assert stream.of(f.Assign)[-1].task_id == "t2"
    world.wait(0.25)
    world.send(session, f.Done(fence(stream), b""))
    assert stream.of(f.Assign)[-1].task_id == "t1"


def test_least_loaded_spreads_single_tasks() -> None:
    world = World()
    streams = [world.agent(f"a{i}", slots=4)[1] for i in range(4)]
    for i in range(8):
        world.submit(f"t{i}")
    assert [len(s.of(f.Assign)) for s in streams] == [2, 2, 2, 2]


def test_round_robin_takes_turns() -> None:
    world = World()
    agents = [world.agent(f"a{i}", slots=100) for i in range(3)]
    for i in range(9):
        world.submit(f"t{i}", strategy=Strategy.ROUND_ROBIN)
    order = sorted((task.key, task.agent_id) for task in world.ns.tasks.values())
    assert [agent for _, agent in order] == ["a0", "a1", "a2"] * 3
    assert len(agents) == 3


def test_deep_queues_are_drawn_in_chunks() -> None:
    world = World()
    for i in range(100):
        world.submit(f"t{i:03}")
    _, stream = world.agent("a", slots=50)
    assert len(stream.of(f.Assign)) == 50
    assert [a.task_id for a in stream.of(f.Assign)] == [f"t{i:03}" for i in range(50)]


def test_capabilities_decide_who_gets_a_task() -> None:
    world = World()
    _, other = world.agent("a", can=("else",))
    world.submit("t1")
    assert not other.of(f.Assign)
    _, able = world.agent("b", can=("work", "else"))
    assert len(able.of(f.Assign)) == 1


def test_a_failed_attempt_is_tried_again_after_a_pause() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1", retry=RetryPolicy(max_retries=1))
    world.send(session, f.Fail(fence(stream), "E", "bad", True))
    assert world.task("t1").state is TaskState.WAITING
    world.send(session, f.Beat(1))
    world.wait(1.0)
    world.send(session, f.Beat(2))
    assert len(stream.of(f.Assign)) == 2
    world.send(session, f.Fail(fence(stream), "E", "bad", True))
    task = world.task("t1")
    assert (task.state, task.outcome) == (TaskState.FAILED, OutcomeReason.RETRIES_EXHAUSTED)


def test_a_failure_that_is_not_retryable_ends_the_task() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Fail(fence(stream), "E", "bad", False))
    assert world.task("t1").outcome is OutcomeReason.NOT_RETRYABLE


def test_a_killed_agents_task_goes_elsewhere_after_the_grace() -> None:
    world = World()
    session, stream = world.agent("a")
    _, other = world.agent("b", slots=1)
    world.submit("t1", strategy=Strategy.ROUND_ROBIN)
    first, second = (stream, other) if stream.of(f.Assign) else (other, stream)
    holder = next(s for s in world.ns.sessions.values() if s.stream is first)
    world.send(holder, f.Accept(fence(first)))
    world.break_stream(holder)
    world.wait(0.5, step=0.05)
    assert not second.of(f.Assign)
    world.wait(0.3, step=0.05)
    assert [a.task_id for a in second.of(f.Assign)] == ["t1"]
    assert world.task("t1").losses == 1
    assert holder.agent.health is Health.LOST
    assert session.session_id


def test_an_agent_that_returns_in_time_keeps_its_attempt() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    mine = fence(stream)
    world.break_stream(session)
    world.wait(0.5, step=0.05)
    again = world.open(session, [c.Held(mine, f.HeldPhase.RUNNING)])
    assert again.of(f.Opened)[0].keep == (mine,)
    world.send(session, f.Done(mine, b"ok"))
    assert world.task("t1").attempt == 1
    assert world.task("t1").state is TaskState.SUCCEEDED


def test_an_attempt_the_agent_never_got_is_sent_again_with_the_same_fence() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    mine = fence(stream)
    world.break_stream(session)
    again = world.open(session, [])
    assert [a.fence for a in again.of(f.Assign)] == [mine]
    assert world.task("t1").losses == 0


def test_an_assignment_that_is_not_accepted_goes_elsewhere_and_costs_nothing() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.wait(0.5)
    _, other = world.agent("b")
    world.wait(0.6, step=0.1)
    assert [a.task_id for a in other.of(f.Assign)] == ["t1"]
    assert stream.of(f.Revoke)
    assert session.agent.health is Health.DEAF
    world.submit("t2")
    assert len(stream.of(f.Assign)) == 1
    world.send(session, f.Beat(1))
    assert len(stream.of(f.Assign)) == 2
    assert world.task("t1").losses == world.task("t1").failures == 0


def test_the_minimal_profile_needs_no_accept() -> None:
    world = World()
    session, stream = world.agent("a", features=frozenset())
    world.submit("t1")
    assert world.task("t1").state is TaskState.RUNNING
    world.wait(2.0)
    world.send(session, f.Done(fence(stream), b""))
    assert world.task("t1").state is TaskState.SUCCEEDED


def test_cancel_of_a_queued_task_ends_it_at_once() -> None:
    world = World()
    world.submit("t1")
    (reply,) = world.do(c.Cancel(None, "t1", 1000))
    assert reply.state is TaskState.CANCELLED
    world.agent("a")
    assert world.task("t1").attempt == 0


def test_cancel_is_pushed_and_acknowledged() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    world.do(c.Cancel(None, "t1", 1000))
    assert stream.of(f.Cancel)[0].reason is f.CancelReason.REQUESTED
    assert world.task("t1").attempt_state is AttemptState.STOPPING
    world.send(session, f.Stopped(fence(stream)))
    assert world.task("t1").state is TaskState.CANCELLED
    assert session.free_slots == 1


def test_a_result_that_comes_before_the_grace_ends_wins_over_the_cancel() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.do(c.Cancel(None, "t1", 1000))
    world.send(session, f.Done(fence(stream), b"r"))
    assert world.task("t1").state is TaskState.SUCCEEDED


def test_after_the_grace_the_fence_is_void_and_the_slot_quarantined() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    world.do(c.Cancel(None, "t1", 500))
    world.wait(0.75)
    assert world.task("t1").state is TaskState.CANCELLED
    assert session.free_slots == 0
    assert stream.of(f.Revoke)
    world.send(session, f.Done(fence(stream), b"late"))
    assert world.task("t1").state is TaskState.CANCELLED
    assert session.free_slots == 1


def test_a_cancel_is_pushed_again_when_the_agent_returns() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    world.break_stream(session)
    world.do(c.Cancel(None, "t1", 5000))
    again = world.open(session, [c.Held(fence(stream), f.HeldPhase.RUNNING)])
    assert [x.fence for x in again.of(f.Cancel)] == [fence(stream)]


@pytest.mark.parametrize(
    ("field", "outcome"),
    [("timeout_ms", OutcomeReason.TIMEOUT), ("queue_timeout_ms", OutcomeReason.QUEUE_TIMEOUT)],
)
def test_a_queued_task_expires(field: str, outcome: OutcomeReason) -> None:
    world = World()
    world.submit("t1", "work", **{field: 1000})
    world.wait(1.25)
    assert (world.task("t1").state, world.task("t1").outcome) == (TaskState.EXPIRED, outcome)


def test_the_queue_timeout_ends_with_acceptance() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1", queue_timeout_ms=500)
    world.send(session, f.Accept(fence(stream)))
    world.wait(1.0)
    assert world.task("t1").state is TaskState.RUNNING


def test_an_attempt_that_runs_too_long_is_stopped_and_tried_again() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1", execution_timeout_ms=500, retry=RetryPolicy(max_retries=0))
    world.send(session, f.Accept(fence(stream)))
    world.wait(0.75)
    assert stream.of(f.Cancel)[0].reason is f.CancelReason.DEADLINE
    world.send(session, f.Stopped(fence(stream)))
    task = world.task("t1")
    assert (task.state, task.outcome) == (TaskState.FAILED, OutcomeReason.EXECUTION_TIMEOUT)


def test_a_task_that_kills_its_agents_is_poison() -> None:
    world = World()
    world.submit("t1", max_losses=2)
    for i in range(2):
        session, stream = world.agent(f"a{i}")
        world.send(session, f.Accept(fence(stream)))
        world.break_stream(session)
        world.wait(1.0)
    assert world.task("t1").outcome is OutcomeReason.POISON


def test_a_second_process_takes_over_and_the_first_is_told_so_at_once() -> None:
    world = World()
    first, stream = world.agent("a")
    world.submit("t1")
    second, other = world.agent("a")
    assert stream.closed
    assert stream.of(f.GoAway) == [f.GoAway(f.GoAwayReason.SUPERSEDED)], (
        "told that it is lost, it would fight"
    )
    assert [a.task_id for a in other.of(f.Assign)] == ["t1"]
    assert first.session_id not in world.ns.sessions
    assert second.session_id in world.ns.sessions


def test_registering_again_with_the_same_key_returns_the_same_session() -> None:
    world = World()
    session, _ = world.agent("a")
    spec = session.agent.spec
    (reply,) = world.do(c.Register(None, spec, "other", session.key_hash, b"r"))
    assert reply.session is session


def test_goodbye_returns_what_is_held_without_a_loss() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)), f.Bye("done for today"))
    assert world.task("t1").state is TaskState.QUEUED
    assert world.task("t1").losses == 0
    assert session.agent.health is Health.DECLARED


def test_an_older_stream_is_sent_away() -> None:
    world = World()
    session, stream = world.agent("a")
    world.open(session)
    assert stream.closed
    assert stream.of(f.GoAway) == [f.GoAway(f.GoAwayReason.SUPERSEDED)]
    replies = world.do(
        c.OpenStream(
            None,
            FakeStream("x"),
            "a",
            session.session_id,
            session.resume_hash,
            1,
            True,
            frozenset(),
            None,
            [],
        )
    )
    assert replies[0].reason is Reason.STREAM_SUPERSEDED


def test_a_wrong_resume_token_opens_nothing() -> None:
    world = World()
    session, _ = world.agent("a")
    replies = world.do(
        c.OpenStream(None, FakeStream("x"), "a", session.session_id, b"wrong", 9, True, frozenset(), None, [])
    )
    assert replies[0].reason is Reason.SESSION_NOT_FOUND
    assert session.stream_seq == 1


def test_zero_slots_means_draining() -> None:
    world = World()
    session, stream = world.agent("a", slots=2)
    world.send(session, f.Slots(0))
    assert session.agent.health is Health.DRAINING
    world.submit("t1")
    assert not stream.of(f.Assign)


def test_a_stopping_attempt_that_its_agent_does_not_know_is_stopped_when_the_agent_returns() -> None:
    world = World()
    session, _ = world.agent("a")
    world.submit("t1")
    world.break_stream(session)
    world.do(c.Cancel(None, "t1", 10_000))
    world.open(session, held=[])
    assert world.task("t1").state is TaskState.CANCELLED
    assert session.free_slots == 1


def test_a_void_attempt_whose_result_waits_takes_no_slot_when_the_agent_returns() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    world.break_stream(session)
    world.do(c.Cancel(None, "t1", 0))
    assert session.free_slots == 0
    world.open(session, held=[c.Held(fence(stream), f.HeldPhase.RESULT_PENDING)])
    assert session.free_slots == 1


def test_a_task_that_everybody_declined_does_not_hold_back_those_behind_it() -> None:
    world = World()
    session, stream = world.agent("a", slots=2, can=("work", "other"))
    world.submit("t1", "work")
    world.send(session, f.Slots(0), f.Decline(fence(stream), "not now", 60_000))
    world.submit("t2", "other")
    world.submit("t3", "work")
    world.send(session, f.Slots(2))
    assert [a.task_id for a in stream.of(f.Assign)] == ["t1", "t2", "t3"]


def test_the_shorter_grace_counts_when_a_stopping_task_is_cancelled() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1", timeout_ms=100)
    world.send(session, f.Accept(fence(stream)))
    world.wait(0.3)
    assert world.task("t1").cancel_cause is OutcomeReason.TIMEOUT
    world.do(c.Cancel(None, "t1", 200))
    world.wait(0.5)
    assert world.task("t1").state is TaskState.EXPIRED


def test_the_time_to_accept_counts_anew_on_a_new_stream() -> None:
    world = World()
    session, _ = world.agent("a")
    world.submit("t1")
    world.wait(0.5)
    world.break_stream(session)
    stream = world.open(session)
    world.wait(0.75)
    assert not session.deaf
    world.send(session, f.Accept(fence(stream)))
    assert world.task("t1").state is TaskState.RUNNING
