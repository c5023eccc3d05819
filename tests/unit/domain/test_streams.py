"""Streams of one session after another: what becomes of what the session held."""

from __future__ import annotations

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.values import TaskState
from tests.unit.domain.world import FakeStream, World


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
