"""The pace of beats: it follows the fleet, and no lease is ever shorter than what its agent goes by."""

from __future__ import annotations

import pytest

from meshd.domain import frames as f
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.pacing import Lease, own_lease, paced, ping_interval_ms
from meshd.domain.values import Session
from tests.unit.domain.world import FakeStream, World

RULES = SessionRules()
BASE = Lease(1_000, 3_500)
BEAT_COST_S, PING_COST_S = 250e-6, 70e-6


def grow(world: World, sessions: int) -> None:
    """Let the fleet be so large at its next sweep."""
    world.fleet.expired([], sessions, world.mono)


def in_large_fleet(world: World) -> tuple[Session, FakeStream, Lease]:
    """Return an agent that goes by the pace of 10,000 agents, told while there were so many; then it is alone again."""
    session, stream = world.agent("a")
    grow(world, 10_000)
    world.send(session, f.Beat(1))
    (ack,) = stream.of(f.LeaseAck)
    assert ack.lease == world.fleet.lease
    world.send(session, f.Beat(2, ack.lease.ttl_ms))
    world.wait(0.5)
    assert world.fleet.lease == BASE
    return session, stream, ack.lease


@pytest.mark.parametrize("sessions", [0, 1, 500, 501, 1_000, 10_000, 100_000])
def test_beats_cost_at_most_15_percent_of_a_core(sessions: int) -> None:
    lease = paced(RULES, sessions, BASE)
    per_s = sessions / (0.9 * lease.beat_interval_ms / 1000)
    assert per_s * BEAT_COST_S <= 0.15
    assert lease.ttl_ms == 3.5 * lease.beat_interval_ms
    assert (lease == BASE) == (sessions <= 500)


def test_few_agents_coming_and_going_do_not_change_the_pace() -> None:
    lease = paced(RULES, 5_000, BASE)
    assert {paced(RULES, sessions, lease) for sessions in range(3_700, 5_500)} == {lease}
    assert paced(RULES, 5_501, lease).beat_interval_ms > lease.beat_interval_ms
    assert paced(RULES, 3_600, lease).beat_interval_ms < lease.beat_interval_ms
    assert paced(RULES, 400, lease) == BASE


def test_an_agent_keeps_a_ttl_of_its_own() -> None:
    assert own_lease(BASE, 60_000) == Lease(1_000, 60_000)
    assert own_lease(BASE, 2_400) == Lease(800, 2_400)
    assert own_lease(Lease(20_000, 70_000), 6_000) == Lease(2_000, 6_000)


def test_a_longer_lease_holds_as_soon_as_it_is_told() -> None:
    world = World()
    session, stream = world.agent("a")
    grow(world, 10_000)
    assert session.lease == BASE, "the agent does not know yet"
    world.send(session, f.Beat(1))
    assert session.lease == world.fleet.lease == stream.of(f.LeaseAck)[-1].lease
    world.send(session, f.Beat(2))
    assert len(stream.of(f.LeaseAck)) == 1, "told once, and no other is due for a long time"


def test_a_shorter_lease_waits_until_the_agent_goes_by_it() -> None:
    world = World()
    session, stream, long = in_large_fleet(world)
    world.wait(30.0)
    assert session.session_id in world.ns.sessions, "nobody told it to beat faster"
    world.send(session, f.Beat(2))
    assert (stream.of(f.LeaseAck)[-1].lease, session.lease) == (BASE, long)
    world.wait(30.0)
    assert session.session_id in world.ns.sessions, "it may not have read that yet"
    world.send(session, f.Beat(3, BASE.ttl_ms))
    assert session.lease == BASE
    world.wait(4.0)
    assert session.session_id not in world.ns.sessions


def test_naming_another_ttl_than_the_one_told_changes_nothing() -> None:
    world = World()
    session, _, long = in_large_fleet(world)
    world.send(session, f.Beat(2))
    world.send(session, f.Beat(3, 1))
    assert session.lease == long


def test_what_an_agent_says_of_an_older_pace_is_not_taken_for_the_newest_of_the_same_ttl() -> None:
    world = World()
    session, stream = world.agent("a")
    # The network is slow: while the agent has not said a word of the first pace, the fleet shrinks and grows again.
    for sessions in (10_000, 0, 10_000):
        grow(world, sessions)
        world.send(session, f.Beat(1))
    (ack,) = stream.of(f.LeaseAck)
    long = ack.lease
    assert long is not None, "only the first was told: the next change waits until the agent goes by it"
    grow(world, 0)
    world.send(session, f.Beat(2, long.ttl_ms))
    assert (stream.of(f.LeaseAck)[-1].lease, session.lease) == (BASE, long), "told as soon as it may be"
    world.send(session, f.Beat(3, BASE.ttl_ms))
    assert session.lease == BASE


def test_the_minimal_profile_goes_by_its_opened() -> None:
    world = World()
    small, _ = world.agent("small", features=frozenset())
    grow(world, 10_000)
    world.send(small, f.Beat(1))
    large, stream = world.agent("large", features=frozenset())
    (opened,) = stream.of(f.Opened)
    assert (small.lease, large.lease, opened.lease) == (BASE, world.fleet.lease, world.fleet.lease)
    world.wait(30.0)
    world.send(large, f.Beat(1))
    world.wait(30.0)
    assert list(world.ns.sessions.values()) == [large]


def test_a_beat_is_late_by_the_agents_own_pace() -> None:
    world = World()
    session, _, _ = in_large_fleet(world)
    world.wait(30.0)
    assert session.bucket >= 0
    world.wait(15.0)
    assert session.bucket < 0


def test_a_broken_session_has_the_time_its_fleet_takes_to_return_not_the_stretched_lease() -> None:
    world = World()
    grow(world, 5_000)
    agents = [world.agent(f"a{i:02}")[0] for i in range(12)]
    for session in agents:
        world.break_stream(session)
    world.wait(9.75)
    assert len(world.ns.sessions) == 12
    world.wait(0.5)
    assert world.doubts_itself()
    for session in agents[:6]:
        world.open(session)
        world.send(session, f.Beat(1))
    world.wait(2.0)
    for session in agents[:6]:
        world.send(session, f.Beat(2))
    world.wait(2.0)
    assert set(world.ns.sessions) == {s.session_id for s in agents[:6]}


def test_a_restart_paces_for_the_fleet_it_restores_and_says_the_longest_lease() -> None:
    fleet = Fleet(RULES)
    fleet.start_hold(10_000, 0.0)
    assert fleet.lease.beat_interval_ms >= 20_000
    world = World()
    session, _, long = in_large_fleet(world)
    assert world.fleet.longest_ttl_ms([session]) == long.ttl_ms
    assert world.fleet.longest_ttl_ms([]) == BASE.ttl_ms


@pytest.mark.parametrize(("sessions", "pace_ms"), [(0, 1_000), (2_000, 1_000), (10_000, 5_000)])
def test_pings_of_a_fleet_that_is_known_at_the_start_cost_at_most_15_percent_of_a_core(
    sessions: int, pace_ms: int
) -> None:
    assert ping_interval_ms(1_000, sessions) == pace_ms
    assert sessions / pace_ms * 1_000 * PING_COST_S <= 0.15
    assert ping_interval_ms(20_000, sessions) == 20_000
