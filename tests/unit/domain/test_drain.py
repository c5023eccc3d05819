"""Drains: who gets no work, for how long, and what becomes of what is running."""

from __future__ import annotations

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.drains import AgentSelector, Drain, drain_id
from meshd.domain.errors import Refusal
from meshd.domain.explain import Verdict, best_verdicts
from meshd.domain.values import (
    AgentSpec,
    AgentType,
    AttemptState,
    Health,
    LabelCondition,
    LabelOperator,
    OutcomeReason,
    Session,
    TaskState,
)
from tests.unit.domain.world import FakeStream, World

IN = LabelOperator.IN


def start(
    world: World, pattern: str, *, hand_over: bool = False, grace_ms: int = 1_000, reason: str = ""
) -> c.Drained:
    selector = AgentSelector(pattern)
    drain = Drain("default", drain_id(selector), selector, reason, "operator:test", world.now.wall_ms)
    (reply,) = world.do(c.StartDrain(None, drain, hand_over, grace_ms))
    assert isinstance(reply, c.Drained)
    return reply


def lift(world: World, pattern: str) -> c.Drained:
    (reply,) = world.do(c.LiftDrain(None, drain_id(AgentSelector(pattern))))
    assert isinstance(reply, c.Drained)
    return reply


def health(session: Session) -> Health:
    return session.agent.health


def fences(stream: FakeStream) -> list[bytes]:
    return [assign.fence for assign in stream.of(f.Assign)]


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (AgentSelector("worker-*"), True),
        (AgentSelector("worker-?"), True),
        (AgentSelector("worker-1"), True),
        (AgentSelector("worker"), False),
        (AgentSelector("*-2"), False),
        (AgentSelector("worker-*", type=AgentType.MONITOR), False),
        (AgentSelector(type=AgentType.WORKER), True),
        (AgentSelector("*", (LabelCondition("zone", IN, ("a", "b")),)), True),
        (AgentSelector("*", (LabelCondition("zone", IN, ("b",)),)), False),
        (AgentSelector(labels=(LabelCondition("zone", LabelOperator.EXISTS, ()),)), True),
    ],
)
def test_a_selector_means_agents_that_meet_all_of_it(selector: AgentSelector, matches: bool) -> None:
    assert selector.matches(AgentSpec("worker-1", AgentType.WORKER, labels={"zone": "a"})) is matches


def test_each_selector_has_an_id_of_its_own() -> None:
    condition = LabelCondition("zone", IN, ("a",))
    different = [
        AgentSelector("a*"),
        AgentSelector("a*", (condition,)),
        AgentSelector("a*", (condition._replace(operator=LabelOperator.NOT_IN),)),
        AgentSelector("a*", type=AgentType.WORKER),
        AgentSelector("a*", type=AgentType.MONITOR),
    ]
    assert len({drain_id(selector) for selector in different}) == len(different)


def test_a_drained_agent_gets_nothing_new_and_keeps_what_it_runs() -> None:
    world = World()
    session, stream = world.agent("w1", slots=2)
    world.submit("t1")
    assert start(world, "w*", reason="new kernel").changed
    assert (session.agent.health, session.free_slots) == (Health.DRAINING, 0)
    assert session.agent.health_cause == "drained by operator:test: new kernel"
    assert stream.of(f.Drain) == [f.Drain("drained by operator:test: new kernel")]
    world.submit("t2")
    world.send(session, f.Beat(1))
    assert len(fences(stream)) == 1
    world.send(session, f.Done(fences(stream)[0], b""))
    assert world.task("t1").state is TaskState.SUCCEEDED
    assert world.task("t2").state is TaskState.QUEUED
    (found,) = best_verdicts(world.task("t2"), world.ns.agents.values(), world.mono, 1)
    assert found.verdict is Verdict.DRAINING
    assert "new kernel" in found.detail
    assert lift(world, "w*").changed
    assert session.agent.health is Health.HEALTHY
    assert len(fences(stream)) == 2


def test_others_are_left_alone() -> None:
    world = World()
    world.agent("w1")
    _, other = world.agent("x1")
    start(world, "w*")
    world.submit("t1")
    assert len(fences(other)) == 1
    assert not other.of(f.Drain)


def test_a_drain_holds_for_sessions_that_begin_later() -> None:
    world = World()
    start(world, "w*")
    session, stream = world.agent("w1")
    assert session.agent.health is Health.DRAINING
    world.send(session, f.Bye(""))
    session, stream = world.agent("w1")
    world.submit("t1")
    assert session.agent.health is Health.DRAINING
    assert stream.of(f.Drain)
    assert not fences(stream)
    lift(world, "w*")
    assert fences(stream)


def test_an_agent_that_comes_back_is_told_again() -> None:
    world = World()
    session, _ = world.agent("w1")
    world.submit("t1")
    start(world, "w1")
    world.break_stream(session)
    assert health(session) is Health.SUSPECT
    held = [c.Held(fence, f.HeldPhase.RUNNING) for fence in session.held]
    stream = world.open(session, held)
    assert health(session) is Health.DRAINING
    assert [type(frame) for frame in stream.frames] == [f.Opened, f.Drain]
    assert len(session.held) == 1


def test_an_agent_of_the_minimal_profile_is_drained_without_a_word() -> None:
    world = World()
    session, stream = world.agent("w1", features=frozenset())
    start(world, "w1")
    world.submit("t1")
    assert session.agent.health is Health.DRAINING
    assert not stream.of(f.Drain)
    assert not fences(stream)


def test_of_two_drains_the_last_one_lifted_lets_work_in() -> None:
    world = World()
    session, stream = world.agent("w1")
    start(world, "w*", reason="first")
    start(world, "*", reason="second")
    world.submit("t1")
    lift(world, "w*")
    assert session.agent.health is Health.DRAINING
    assert session.agent.health_cause.endswith("second")
    assert not fences(stream)
    lift(world, "*")
    assert fences(stream)
    assert len(stream.of(f.Drain)) == 1


def test_repeating_changes_nothing() -> None:
    world = World()
    _, stream = world.agent("w1")
    first = start(world, "w1", reason="first")
    again = start(world, "w1", reason="again")
    assert (again.changed, again.drain) == (False, first.drain)
    assert len(stream.of(f.Drain)) == 1
    assert lift(world, "w1").changed
    assert lift(world, "w1") == c.Drained(None, False)


def test_drains_are_bounded() -> None:
    world = World()
    for number in range(100):
        start(world, f"w{number}")
    selector = AgentSelector("one-more")
    (reply,) = world.do(
        c.StartDrain(None, Drain("default", drain_id(selector), selector, "", "operator:test", 1), False, 0)
    )
    assert isinstance(reply, Refusal)
    assert "lift one first" in reply.message
    assert start(world, "w1").changed is False


def test_a_deaf_agent_is_drained_once_it_speaks() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.wait(1.2)
    assert health(session) is Health.DEAF
    start(world, "w1")
    assert health(session) is Health.DEAF
    world.send(session, f.Beat(1))
    assert health(session) is Health.DRAINING
    assert len(fences(stream)) == 1


def test_an_agent_whose_beat_is_late_gets_no_work_by_a_drain_that_is_lifted() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.wait(2.5)
    start(world, "w1")
    assert health(session) is Health.SUSPECT
    lift(world, "w1")
    world.submit("t1")
    assert health(session) is Health.SUSPECT
    assert not fences(stream)
    world.send(session, f.Beat(1))
    assert health(session) is Health.HEALTHY
    assert fences(stream)


def test_what_is_handed_over_goes_on_elsewhere_at_no_cost() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.send(session, f.Accept(fences(stream)[0]))
    _, other = world.agent("x1")
    start(world, "w1", hand_over=True)
    assert stream.of(f.Cancel) == [f.Cancel(fences(stream)[0], f.CancelReason.HAND_OVER, 1_000)]
    assert world.task("t1").state is TaskState.RUNNING
    world.send(session, f.Stopped(fences(stream)[0]))
    task = world.task("t1")
    assert (task.state, task.attempt, task.losses, task.failures) == (TaskState.ASSIGNED, 2, 0, 0)
    assert len(fences(other)) == 1
    assert world.counts.get(("lost", "connection")) is None


@pytest.mark.parametrize("features", [frozenset({int(f.Feature.CANCEL)}), frozenset[int]()])
def test_after_the_grace_a_fence_handed_over_is_void(features: frozenset[int]) -> None:
    world = World()
    session, stream = world.agent("w1", features=features)
    world.submit("t1")
    _, other = world.agent("x1", features=frozenset())
    start(world, "w1", hand_over=True)
    world.send(session, f.Beat(1))
    world.wait(1.25)
    assert stream.of(f.Revoke) == [f.Revoke(fences(stream)[0])]
    assert world.task("t1").agent_id == "x1"
    world.send(session, f.Done(fences(stream)[0], b"late"))
    assert world.task("t1").state is TaskState.RUNNING
    world.do(c.Frames(world.ns.agents["x1"].session, other, [f.Done(fences(other)[0], b"good")]))  # type: ignore[arg-type]
    assert world.outputs[world.task("t1").key] == b"good"


def test_a_result_that_comes_within_the_grace_counts() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    start(world, "w1", hand_over=True)
    world.send(session, f.Done(fences(stream)[0], b"r"))
    assert world.task("t1").state is TaskState.SUCCEEDED


@pytest.mark.parametrize("ending", ["fail", "leave", "die"])
def test_however_an_attempt_handed_over_ends_it_costs_nothing(ending: str) -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1", max_losses=1)
    world.send(session, f.Accept(fences(stream)[0]))
    start(world, "w1", hand_over=True, grace_ms=60_000)
    if ending == "fail":
        world.send(session, f.Fail(fences(stream)[0], "E", "stopped in the middle", False))
    elif ending == "leave":
        world.send(session, f.Bye(""))
    else:
        world.break_stream(session)
        world.wait(1.0)
    task = world.task("t1")
    assert (task.state, task.losses, task.failures) == (TaskState.QUEUED, 0, 0)
    assert task.attempt_state is AttemptState.RETURNED


def test_a_cancel_outranks_a_hand_over_and_keeps_its_own_grace() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.send(session, f.Accept(fences(stream)[0]))
    start(world, "w1", hand_over=True, grace_ms=60_000)
    world.do(c.Cancel(None, "t1", 500))
    world.wait(0.75)
    task = world.task("t1")
    assert (task.state, task.outcome) == (TaskState.CANCELLED, OutcomeReason.CANCEL_REQUESTED)


def test_handing_over_again_can_only_shorten_the_grace() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.send(session, f.Accept(fences(stream)[0]))
    start(world, "w1", hand_over=True, grace_ms=60_000)
    start(world, "w1", hand_over=True, grace_ms=500)
    assert len(stream.of(f.Cancel)) == 1
    assert world.task("t1").cancel_grace_ms == 500
    armed = len(world.ns.timers)
    start(world, "w1", hand_over=True, grace_ms=60_000)
    start(world, "w1", hand_over=True, grace_ms=500)
    assert len(world.ns.timers) == armed
    world.wait(0.75)
    assert world.task("t1").state is TaskState.QUEUED


def test_a_task_being_cancelled_is_not_handed_over() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.send(session, f.Accept(fences(stream)[0]))
    world.do(c.Cancel(None, "t1", 500))
    start(world, "w1", hand_over=True, grace_ms=100)
    world.send(session, f.Stopped(fences(stream)[0]))
    assert world.task("t1").state is TaskState.CANCELLED


def test_a_late_beat_shows_on_an_agent_that_is_offered_no_work() -> None:
    world = World()
    session, _ = world.agent("a")
    world.send(session, f.Slots(0))
    assert health(session) is Health.DRAINING
    world.wait(2.5 * session.lease.beat_interval_ms / 1000)
    assert health(session) is Health.SUSPECT
    world.send(session, f.Beat(1))
    assert health(session) is Health.DRAINING
