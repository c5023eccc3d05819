"""Random worlds: whatever agents, callers and the network do, the invariants hold after every step.

The world checks the invariants itself; here each seed is a history of a few hundred random commands. A failing seed is
replayed by ``pytest 'tests/property/test_machine_random.py::test_random_history[SEED]'``.
"""

from __future__ import annotations

from random import Random

import pytest

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.drains import AgentSelector, Drain, drain_id
from meshd.domain.values import RetryPolicy, Session, Strategy
from tests.unit.domain.world import ALL_FEATURES, FakeStream, World

STEPS = 300


def _frames(rng: Random, session: Session, stream: FakeStream) -> list[f.UpFrame]:
    """Reports about what this stream ever got, honest or stale, in any order."""
    known = [a.fence for a in stream.of(f.Assign)] or [b"unknown"]
    fence = rng.choice(known)
    choices: list[f.UpFrame] = [
        f.Beat(rng.randrange(100)),
        f.Accept(fence),
        f.Done(fence, b"r"),
        f.Done(fence, b"r"),
        f.Fail(fence, "E", "m", rng.random() < 0.7),
        f.Decline(fence, "busy", rng.choice((0, 300))),
        f.Progress(fence, rng.randrange(5), 0.1, ""),
        f.Output(fence, 1, b"o"),
        f.Stopped(fence),
        f.Slots(rng.randrange(4)),
    ]
    if rng.random() < 0.02:
        return [f.Bye("")]
    return [rng.choice(choices) for _ in range(rng.randrange(1, 4))]


def _step(world: World, rng: Random, number: int) -> None:
    sessions = list(world.ns.sessions.values())
    connected = [s for s in sessions if isinstance(s.stream, FakeStream)]
    roll = rng.random()
    if roll < 0.3:
        world.submit(
            f"t{rng.randrange(number + 5)}",
            rng.choice(("work", "other")),
            priority=rng.randrange(10),
            strategy=rng.choice(list(Strategy)),
            retry=RetryPolicy(max_retries=rng.randrange(3), initial_backoff_ms=100),
            timeout_ms=rng.choice((0, 0, 2000)),
            queue_timeout_ms=rng.choice((0, 0, 1000)),
            execution_timeout_ms=rng.choice((0, 700)),
            max_losses=rng.choice((1, 5)),
        )
    elif roll < 0.4:
        can = rng.choice((("work",), ("other",), ("work", "other")))
        features = rng.choice((ALL_FEATURES, frozenset()))
        world.agent(f"a{rng.randrange(6)}", slots=rng.randrange(4), can=can, features=features)
    elif roll < 0.75 and connected:
        session = rng.choice(connected)
        assert isinstance(session.stream, FakeStream)
        world.send(session, *_frames(rng, session, session.stream))
    elif roll < 0.8 and connected:
        world.break_stream(rng.choice(connected))
    elif roll < 0.86 and sessions:
        session = rng.choice(sessions)
        held = [c.Held(x, rng.choice(list(f.HeldPhase))) for x in session.held if rng.random() < 0.7]
        world.open(session, [*held, c.Held(b"never-heard-of", f.HeldPhase.RUNNING)])
    elif roll < 0.92 and world.ns.tasks:
        world.do(c.Cancel(None, rng.choice(list(world.ns.tasks)), rng.choice((0, 500))))
    elif roll < 0.95:
        selector = AgentSelector(rng.choice(("*", "a?", "a1", "a2", "a3")))
        drain = Drain("default", drain_id(selector), selector, "", "operator:test", 1)
        start = c.StartDrain(None, drain, rng.random() < 0.5, rng.choice((0, 300)))
        world.do(start if rng.random() < 0.4 else c.LiftDrain(None, drain.drain_id))
    elif roll < 0.96 and world.ns.agents:
        world.do(c.RevokeAgent(None, rng.choice(list(world.ns.agents))))
    else:
        world.wait(rng.choice((0.05, 0.3, 1.2, 4.0)))


@pytest.mark.parametrize("seed", range(60))
def test_random_history(seed: int) -> None:
    world = World(seed)
    rng = Random(seed)
    for number in range(STEPS):
        _step(world, rng, number)
    # Left alone with one able agent, every task without a deadline in the far future ends.
    world.do(*[c.LiftDrain(None, key) for key in list(world.ns.drains)])
    world.wait(15.0)
    agents = [world.agent("finisher", slots=3, can=("work", "other"))]
    for _ in range(400):
        session, stream = agents[0]
        open_fences = [a.fence for a in stream.of(f.Assign) if a.fence in session.held]
        world.send(session, f.Beat(1), *[f.Done(x, b"end") for x in open_fences])
        if not world.ns.tasks:
            break
        world.wait(0.5)
    assert not world.ns.tasks
