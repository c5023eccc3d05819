"""What a start makes of what was durable."""

from __future__ import annotations

from random import Random

from meshd.domain.effects import Effects
from meshd.domain.limits import SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.machine import handle
from meshd.domain.state import Counter
from meshd.domain.values import (
    Agent,
    AgentSpec,
    AgentType,
    Health,
    NamespaceInfo,
    Now,
    Requirements,
    Session,
    Task,
    TaskSpec,
    TaskState,
)
from meshd.engine.restore import build
from meshd.ports.store import Restored


def test_a_clock_that_was_set_back_makes_no_retry_wait_longer() -> None:
    spec = TaskSpec("t1", "work", b"", b"d", Requirements(frozenset(("work",))))
    task = Task(
        1, "one", spec, 7, TaskState.WAITING, 0, "agent:x/y", 0, failures=1, next_attempt_ms=3_601_000
    )
    restored = Restored([NamespaceInfo("one", "", 0, 2)], [], [task], 2, [], [], [], [], [], {})
    rules = SessionRules()
    ns = build(restored, rules, Fleet(rules), Counter(2), Random(1), Now(100.0, 1_000))["one"]
    handle(ns, [], Now(101.1, 2_100), Effects())
    assert task.state is TaskState.QUEUED


def restarted() -> tuple[Fleet, Session, float]:
    """A fleet built at 100.0 s of one restored session, and the length of its hold."""
    agent = Agent("one", AgentSpec("a", AgentType.WORKER), 0, Health.HEALTHY, 0, "")
    session = agent.session = Session("s1", agent, b"", b"", 1, 0)
    restored = Restored([NamespaceInfo("one", "", 0, 2)], [agent], [], 2, [], [], [], [], [], {})
    rules = SessionRules()
    fleet = Fleet(rules)
    build(restored, rules, fleet, Counter(2), Random(1), Now(100.0, 1_000))
    return fleet, session, rules.hold_min_ms / 1000


def test_the_hold_counts_from_when_agents_can_return() -> None:
    fleet, session, hold_s = restarted()
    # A large state took longer than the hold to build.
    listening_mono = 100.0 + hold_s + 1.0
    fleet.restart_hold([session], listening_mono)
    assert not fleet.expired([session], 1, listening_mono + hold_s)
    assert fleet.expired([session], 1, listening_mono + hold_s + 0.01) == [session]


def test_a_stall_and_a_sweep_before_the_mesh_listens_take_nothing_of_the_hold() -> None:
    fleet, session, hold_s = restarted()
    fleet.stalled(hold_s, [session], 100.0 + hold_s)
    assert not fleet.expired([session], 1, 100.0 + hold_s)
    listening_mono = 101.0 + hold_s
    fleet.restart_hold([session], listening_mono)
    assert not fleet.expired([session], 1, listening_mono + hold_s)
    assert fleet.expired([session], 1, listening_mono + hold_s + 0.01) == [session]
