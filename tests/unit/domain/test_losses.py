"""When sessions are lost: leases, stalls of the daemon, mass breaks, and a mesh that suspects itself."""

from __future__ import annotations

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.values import Session, TaskState
from tests.unit.domain.world import World, fence


def test_a_mass_break_is_judged_by_ttl_alone() -> None:
    world = World()
    agents = [world.agent(f"a{i:02}") for i in range(12)]
    for i in range(12):
        world.submit(f"t{i}")
    for session, _ in agents:
        world.break_stream(session)
    world.wait(2.0, step=0.05)
    assert len(world.ns.sessions) == 12
    assert {t.attempt for t in world.ns.tasks.values()} == {1}


def test_who_broke_and_came_back_does_not_count_twice_among_all_sessions() -> None:
    world = World()
    agents = [world.agent(f"a{i:03}")[0] for i in range(250)]
    world.wait(0.25)
    for session in agents:
        world.break_stream(session)
        world.open(session, [])
    world.wait(1.25)
    for session in agents[:13]:
        world.break_stream(session)
    world.wait(1.0, step=0.05)
    assert len(world.ns.sessions) == 250, "13 of 250 are more than 5 %"


def test_one_agent_whose_connection_breaks_again_and_again_is_no_mass_break() -> None:
    world = World()
    flapping, _ = world.agent("flapping")
    dead, _ = world.agent("dead")
    for _ in range(20):
        world.break_stream(flapping)
        world.open(flapping, [])
        world.wait(0.05)
    world.break_stream(dead)
    for _ in range(20):
        world.break_stream(flapping)
        world.open(flapping, [])
        world.wait(0.05)
    assert set(world.ns.sessions.values()) == {flapping}
    assert dead.agent.health_cause == "its connection ended and it did not return"


def test_connections_that_break_twice_together_are_a_mass_break_each_time() -> None:
    world = World()
    agents = [world.agent(f"a{i:02}")[0] for i in range(12)]
    for _ in range(2):
        for session in agents:
            world.break_stream(session)
            world.open(session, [])
        world.wait(0.4, step=0.05)
    for session in agents:
        world.break_stream(session)
    world.wait(2.0, step=0.05)
    assert len(world.ns.sessions) == 12


def test_a_lease_ends_after_its_ttl_and_any_frame_extends_it() -> None:
    world = World()
    session, stream = world.agent("a")
    other, _ = world.agent("b", can=("else",))
    world.submit("t1")
    world.send(session, f.Accept(fence(stream)))
    for _ in range(8):
        world.wait(1.0)
        world.send(session, f.Progress(fence(stream), 1, 0.5, ""))
        world.send(other, f.Beat(1))
    assert session.session_id in world.ns.sessions
    for _ in range(4):
        world.wait(1.0)
        world.send(other, f.Beat(1))
    assert session.session_id not in world.ns.sessions
    assert world.task("t1").losses == 0  # an expired lease is no death
    assert world.task("t1").state is TaskState.QUEUED


def test_a_stall_of_the_daemon_costs_nobody_a_lease() -> None:
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    world.mono += 6.0
    world.fleet.stalled(6.0, world.ns.sessions.values(), world.mono)
    world.ns.postpone_accepts(6.0, world.mono)
    world.sweep()
    assert session.held
    world.break_stream(session)  # the other side hung up while the daemon stood
    world.wait(1.5, step=0.05)
    assert session.session_id in world.ns.sessions
    world.open(session, [c.Held(fence(stream), f.HeldPhase.RUNNING)])
    assert world.task("t1").attempt == 1


def test_what_leaves_after_a_stall_that_is_not_noticed_yet_gets_no_more_than_its_time_to_accept() -> None:
    world = World()
    session, _ = world.agent("a")
    world.mono += 6.0
    world.submit("t1")
    world.ns.postpone_accepts(6.0, world.mono)
    world.send(session, f.Beat(1))
    world.wait(0.9)
    assert session.held
    world.wait(0.2)
    assert not session.held
    assert session.deaf


def test_the_mesh_suspects_itself_when_most_leases_end_together() -> None:
    world = World()
    for i in range(12):
        world.agent(f"a{i}")
    world.wait(3.75)
    assert len(world.ns.sessions) == 12
    assert world.doubts_itself()
    world.wait(4.0)
    assert not world.ns.sessions


def test_the_mesh_does_not_suspect_itself_when_less_than_half_of_all_go_one_by_one() -> None:
    world = World()
    sessions = [world.agent(f"a{n:02}")[0] for n in range(16)]
    for step in range(24):
        for session in sessions[:7][int(step * 0.25 / 0.4) + 1 :] + sessions[7:]:
            world.send(session, f.Beat(step + 1))
        world.wait(0.25)
        assert not world.doubts_itself(), (
            "seven of sixteen are no majority, though the last is one of ten left"
        )
    assert len(world.ns.sessions) == 9


def test_the_mesh_suspects_itself_again_after_everybody_had_come_back() -> None:
    world = World()
    sessions = [world.agent(f"a{n}")[0] for n in range(12)]
    for _ in range(2):
        world.wait(4.0)
        assert world.doubts_itself()
        for session in sessions:
            world.send(session, f.Beat(1))
        world.wait(3.0)
        for session in sessions:
            world.send(session, f.Beat(2))
        world.wait(1.0)
        assert not world.doubts_itself()
    assert len(world.ns.sessions) == 12


def test_who_falls_silent_again_while_the_mesh_suspects_itself_gets_a_second_ttl_too() -> None:
    world = World()
    # Of a TTL shorter than the mesh's, for which it suspects itself.
    sessions = [world.agent(f"a{n:02}", lease_ttl_ms=1_000)[0] for n in range(12)]
    world.wait(1.5)
    assert world.doubts_itself()
    for session in sessions[1:]:
        world.send(session, f.Beat(1))
    world.wait(3.5)
    assert {s.session_id for s in sessions[1:]} == set(world.ns.sessions), "one has been silent for all of it"
    assert world.doubts_itself()
    for session in sessions[1:8]:
        world.send(session, f.Beat(2))
    world.wait(0.75)
    for _ in range(4):
        for session in sessions[1:8]:
            world.send(session, f.Beat(3))
        world.wait(0.75)
    assert {s.session_id for s in sessions[1:8]} == set(world.ns.sessions)
    assert not world.doubts_itself()


def test_connections_that_end_while_the_mesh_suspects_itself_are_no_deaths() -> None:
    world = World()
    sessions = [world.agent(f"a{n:02}")[0] for n in range(12)]
    world.wait(3.75)
    assert world.doubts_itself()
    # They have heard nothing from the mesh, so they hang up; too few at once for a mass break.
    for session in sessions[:4]:
        world.break_stream(session)
    world.wait(2.0, step=0.05)
    assert len(world.ns.sessions) == 12
    for session in sessions[:4]:
        world.open(session, [])
    for session in sessions[4:]:
        world.send(session, f.Beat(1))
    world.wait(2.0)
    assert len(world.ns.sessions) == 12


def restarted(agents: int) -> tuple[World, list[Session]]:
    """Return a world in which the daemon has just started again and knows so many agents."""
    world = World()
    sessions = [world.agent(f"a{n:02}")[0] for n in range(agents)]
    for session in sessions:
        world.break_stream(session)
        session.broken_mono = 0.0
    world.fleet.start_hold(agents, world.mono)
    for session in sessions:
        world.fleet.restored(session)
    return world, sessions


def test_who_does_not_come_back_is_lost_when_the_hold_is_over() -> None:
    world, (early, _never) = restarted(2)
    world.wait(1.0)
    world.open(early)
    for _ in range(9):
        world.wait(1.0)
        world.send(early, f.Beat(1))
    assert len(world.ns.sessions) == 2
    world.wait(0.25)
    assert list(world.ns.sessions.values()) == [early]


def come_back(world: World, sessions: list[Session], every_s: float) -> None:
    """Let one after the other come back, and beat from then on."""
    for number, session in enumerate(sessions):
        world.open(session)
        world.wait(every_s)
        for back in sessions[: number + 1]:
            world.send(back, f.Beat(1))


def test_the_hold_goes_on_while_agents_come_back() -> None:
    world, sessions = restarted(6)
    world.wait(9.25)
    come_back(world, sessions[:-1], 0.75)
    # 13 s after the start, and 0.75 s after the last return.
    come_back(world, sessions[-1:], 1.0)
    assert len(world.ns.sessions) == 6


def test_the_hold_is_over_once_nobody_has_come_back_for_a_second() -> None:
    world, sessions = restarted(3)
    world.wait(9.5)
    world.open(sessions[0])
    world.wait(0.75)
    assert len(world.ns.sessions) == 3
    world.wait(0.25)
    assert list(world.ns.sessions.values()) == sessions[:1]


def test_the_hold_goes_on_for_twice_its_length_at_most() -> None:
    world, sessions = restarted(20)
    world.wait(9.5)
    come_back(world, sessions[:14], 0.75)
    assert len(world.ns.sessions) == 14, "20 s after the start"
