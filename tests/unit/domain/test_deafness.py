"""Agents that beat but answer no assignment: tried again at once, then ever more seldom, until they answer one."""

from __future__ import annotations

import pytest

from meshd.domain import frames as f
from meshd.domain.limits import MAX_DEAF_PAUSE_S
from meshd.domain.values import Health, Session
from tests.unit.domain.world import FakeStream, World, fence

TICK_S = 0.25


def assigned(stream: FakeStream) -> int:
    return len(stream.of(f.Assign))


def until_assigned(world: World, session: Session, stream: FakeStream) -> float:
    """Beat until the next assignment; return how long that took."""
    before, start = assigned(stream), world.mono
    while assigned(stream) == before:
        world.wait(TICK_S)
        world.send(session, f.Beat(1))
    return world.mono - start


def until_deaf(world: World, session: Session) -> None:
    """Beat until the time to accept is over; the beat that is due then has not come yet."""
    while not session.deaf:
        world.send(session, f.Beat(1))
        world.wait(TICK_S)


def missed(times: int) -> tuple[World, Session, FakeStream]:
    """An agent that has just left so many assignments in a row unanswered."""
    world = World()
    session, stream = world.agent("a")
    world.submit("t1")
    until_deaf(world, session)
    for _ in range(times - 1):
        until_assigned(world, session, stream)
        until_deaf(world, session)
    return world, session, stream


@pytest.mark.parametrize(
    ("times", "pause_s"),
    [(1, TICK_S), (2, 1.0), (3, 2.0), (5, 8.0), (8, MAX_DEAF_PAUSE_S), (40, MAX_DEAF_PAUSE_S)],
)
def test_who_answers_nothing_is_tried_ever_more_seldom(times: int, pause_s: float) -> None:
    world, session, stream = missed(times)
    assert until_assigned(world, session, stream) == pytest.approx(pause_s, abs=TICK_S)


def test_during_the_pause_it_is_deaf_whatever_it_says_besides() -> None:
    world, session, stream = missed(4)
    before = assigned(stream)
    world.send(session, f.Beat(1), f.Slots(3))
    world.wait(1.0)
    assert session.slots == 3
    assert (session.deaf, session.agent.health, assigned(stream)) == (True, Health.DEAF, before)
    assert until_assigned(world, session, stream) == pytest.approx(3.0, abs=TICK_S)


def test_who_answers_one_is_tried_at_once_again() -> None:
    world, session, stream = missed(5)
    until_assigned(world, session, stream)
    world.send(session, f.Decline(fence(stream), "", 100))
    until_assigned(world, session, stream)
    until_deaf(world, session)
    assert until_assigned(world, session, stream) == pytest.approx(TICK_S)


def test_what_it_says_of_what_it_took_long_ago_is_no_answer() -> None:
    """Its handlers still report, by a thread of their own."""
    world = World()
    session, stream = world.agent("a", slots=2)
    world.submit("t0")
    running = fence(stream)
    world.send(session, f.Accept(running))
    world.submit("t1")
    for _ in range(3):
        until_deaf(world, session)
        until_assigned(world, session, stream)
    until_deaf(world, session)
    world.send(session, f.Progress(running, 1, None, ""))
    assert session.deaf
    assert until_assigned(world, session, stream) == pytest.approx(4.0, abs=TICK_S)


def test_a_new_stream_begins_anew() -> None:
    world, session, _ = missed(6)
    stream = world.open(session)
    assert not session.deaf
    assert assigned(stream) == 1
    until_deaf(world, session)
    assert until_assigned(world, session, stream) == pytest.approx(TICK_S)
