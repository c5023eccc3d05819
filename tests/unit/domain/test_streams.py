"""Streams of one session after another: what becomes of what the session held."""

from __future__ import annotations

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.explain import best_verdicts
from meshd.domain.values import AttemptState, TaskState
from tests.unit.domain.world import FakeStream, World, fence


def test_what_a_session_held_goes_to_others_when_it_only_beats_from_now_on() -> None:
    world = World()
    session, stream = world.agent("w1", slots=2)
    world.submit("t1")
    world.submit("t2")
    for assign in stream.of(f.Assign):
        world.send(session, f.Accept(assign.fence))
    world.do(c.Cancel(None, "t2", 60_000))
    held = [c.Held(fence, f.HeldPhase.RUNNING) for fence in session.held]
    beats = FakeStream("beats")
    world.do(
        c.OpenStream(
            None, beats, "w1", session.session_id, session.resume_hash, 2, False, frozenset(), None, held
        )
    )
    assert set(beats.of(f.Opened)[0].drop) == {each.fence for each in held}
    assert (world.task("t1").state, world.task("t1").losses) == (TaskState.QUEUED, 0)
    assert world.task("t2").state is TaskState.CANCELLED
    world.agent("w2")
    assert world.task("t1").agent_id == "w2"


def test_a_task_that_its_agent_stopped_untold_goes_to_others_at_once_and_to_it_after_a_pause() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)), f.Stopped(fence(stream)))
    assert world.task("t1").state is TaskState.QUEUED
    world.wait(0.9, step=0.1)
    assert world.task("t1").state is TaskState.QUEUED
    world.wait(0.2, step=0.1)
    assert world.task("t1").agent_id == "w1"
    world.send(session, f.Stopped(fence(stream)))
    world.agent("w2")
    assert world.task("t1").agent_id == "w2"


def test_of_many_numbers_of_slots_in_a_message_the_last_counts() -> None:
    world = World()
    session, _ = world.agent("w1", slots=2)
    before = session.agent.revision
    world.send(session, *(f.Slots(1 + number % 7) for number in range(100)), f.Slots(5))
    assert (session.slots, session.agent.revision) == (5, before + 1)
    world.send(session, f.Slots(5))
    assert session.agent.revision == before + 1


def test_handlers_that_go_on_after_a_restart_or_a_lost_session_take_their_slots() -> None:
    world = World()
    session, _ = world.agent("w1", slots=2)
    void = [b"void-1------", b"void-2------", b"ended-------"]
    phases = (f.HeldPhase.RUNNING, f.HeldPhase.STOPPING, f.HeldPhase.RESULT_PENDING)
    stream = world.open(session, [c.Held(fence, phase) for fence, phase in zip(void, phases, strict=True)])
    world.submit("t1")
    assert list(stream.of(f.Opened)[0].drop) == void
    assert session.free_slots == 0
    assert world.task("t1").state is TaskState.QUEUED
    (verdict,) = best_verdicts(world.task("t1"), [session.agent], world.mono, 1)
    assert verdict.detail.endswith("2 by handlers that go on though their attempts are over")
    world.send(session, f.Stopped(void[0]))
    assert world.task("t1").agent_id == "w1"
    world.open(session, [c.Held(world.task("t1").fence, f.HeldPhase.RUNNING)])
    assert session.free_slots == 1


def test_an_agent_without_accept_is_told_the_deadline_that_counts_when_it_is_given_an_attempt_again() -> None:
    world = World()
    session, _ = world.agent("w1")
    world.submit("t1", execution_timeout_ms=2_000)
    world.mono += 0.5
    again = world.open(session, held=[], features=frozenset())
    (assign,) = again.of(f.Assign)
    assert assign.deadline_ms == world.now.wall_ms + 2_000
    world.wait(1.9)
    assert world.task("t1").attempt_state is AttemptState.RUNNING
    world.wait(0.25)
    assert world.task("t1").attempt_state is AttemptState.STOPPING


def test_watchers_see_the_slots_that_an_open_tells() -> None:
    world = World()
    session, _ = world.agent("w1", slots=2)
    before = session.agent.revision
    for number, slots in enumerate((3, 3), 2):
        stream = FakeStream("next")
        world.do(
            c.OpenStream(
                None,
                stream,
                "w1",
                session.session_id,
                session.resume_hash,
                number,
                True,
                frozenset(),
                slots,
                [],
            )
        )
    assert (session.slots, session.agent.revision) == (3, before + 1)


def test_a_deadline_changes_nothing_of_an_attempt_that_is_being_cancelled_for_less() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1", timeout_ms=1_000)
    world.send(session, f.Accept(stream.of(f.Assign)[0].fence))
    world.do(c.Cancel(None, "t1", 5_000))
    generation = world.task("t1").generation
    world.wait(1.5)
    assert world.task("t1").generation == generation
    world.wait(4.0)
    assert world.task("t1").state is TaskState.CANCELLED


def test_a_task_that_was_taken_once_does_not_expire_in_the_queue_again() -> None:
    world = World()
    session, stream = world.agent("w1")
    world.submit("t1", queue_timeout_ms=3_000)
    world.send(session, f.Accept(fence(stream)))
    world.send(session, f.Stopped(fence(stream)))
    world.send(session, f.Decline(fence(stream), "busy", 60_000))
    world.wait(5.0)
    assert world.task("t1").state is TaskState.QUEUED
