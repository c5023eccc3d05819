"""What is going to happen in one world, drawn from its seed: settings and a list of events.

Rule: a plan is data. Any subset of its events is a plan too, which is how a failing one is shrunk; an event names its
subject by a number that the world takes modulo what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

from meshd.domain.limits import (
    CHUNK_DRAWS,
    MASS_BREAK_MIN,
    MASS_EXPIRY_MIN_SESSIONS,
    MAX_DRAINS,
    SessionRules,
)
from meshd.domain.pacing import MS_PER_SESSION
from meshd.domain.values import (
    DEFAULT_PRIORITY,
    LabelCondition,
    LabelOperator,
    Requirements,
    RetryPolicy,
    Strategy,
)

T = TypeVar("T")
TYPES: Final = ("work", "other")


class AgentPlan(NamedTuple):
    """An agent that is there from the beginning."""

    namespace: str
    agent_id: str
    slots: int
    can: frozenset[str]
    minimal: bool
    lease_ttl_ms: int


class Bounds(NamedTuple):
    """Limits that a world of a few agents reaches; the mesh's own are for thousands."""

    mass_break: int
    """More connections than this that break together are a proxy's reload."""
    mass_expiry: int
    """With so many sessions the mesh may suspect itself."""
    drains: int
    kept_draws: int
    """Draws for which a chosen agent is kept."""
    ms_per_session: int
    """So much of the interval of beats each session takes."""


class Settings(NamedTuple):
    """What holds for the whole of a world."""

    namespaces: tuple[str, ...]
    agents: tuple[AgentPlan, ...]
    rules: SessionRules
    bounds: Bounds
    decline_share: float
    """Share of assignments that agents turn down."""
    obedience: float
    """Share of handlers that stop when they are told to."""
    latency_s: float
    loss: float
    """Share of unary requests and replies that are lost."""
    disk_s: float
    recent_tasks: int
    seconds: float
    """How long faults go on."""


class Event(NamedTuple):
    """Something that happens at a time."""

    at: float
    kind: str
    subject: int
    amount: float
    detail: Any = None

    def __str__(self) -> str:
        """Say it in one line."""
        detail = "" if self.detail is None else f" {self.detail}"
        return f"{self.at:8.3f}  {self.kind} {self.subject} {self.amount:.3f}{detail}"


class TaskPlan(NamedTuple):
    """One task that somebody submits."""

    task_id: str
    task_type: str
    digest: bytes
    requirements: Requirements | None
    priority: int
    strategy: Strategy
    timeout_ms: int
    queue_timeout_ms: int
    execution_timeout_ms: int
    retry: RetryPolicy
    max_losses: int


class Plan(NamedTuple):
    """One world."""

    seed: int
    settings: Settings
    events: tuple[Event, ...]


FAULTS: Final = (
    ("break", 10),
    ("flap", 3),
    ("block", 6),
    ("freeze_agent", 5),
    ("die", 8),
    ("twin", 3),
    ("leave", 4),
    ("drain", 6),
    ("heartbeat_only", 3),
    ("impostor", 4),
    ("revoke", 2),
    ("declare", 3),
    ("cancel_away", 4),
    ("deregister", 2),
    ("kill", 6),
    ("kill_at", 8),
    ("freeze_daemon", 5),
    ("disk_stall", 4),
    ("disk_fail", 2),
    ("jump", 2),
    ("lag", 3),
    ("together", 6),
    ("operator_drain", 8),
    ("hush", 4),
)
KINDS: Final = tuple(kind for kind, _ in FAULTS)
WEIGHTS: Final = tuple(weight for _, weight in FAULTS)


def pick(rng: Random, values: Sequence[T]) -> T:
    """Choose as Random.choice does, which is not compiled and draws by three calls."""
    count = len(values)
    bits = count.bit_length()
    drawn = rng.getrandbits(bits)
    while drawn >= count:
        drawn = rng.getrandbits(bits)
    return values[drawn]


def make(seed: int) -> Plan:
    """Draw the plan of a seed."""
    rng = Random(seed)
    settings = _settings(rng)
    events: list[Event] = []
    names = rng.randrange(6, 24)
    for number in range(names):
        at = rng.random() ** 1.5 * settings.seconds
        tasks = [_task(rng, number * 10 + part) for part in range(pick(rng, (1, 1, 1, 2, 5, 9)))]
        if len(tasks) > 2 and rng.random() < 0.5:
            tasks = [tasks[0]._replace(task_id=task.task_id, digest=task.digest) for task in tasks]
        events.append(Event(at, "submit", rng.randrange(100), 0.0, tasks))
        roll = rng.random()
        if roll < 0.12:
            events.append(Event(at + rng.random() * 5, "resubmit", rng.randrange(100), 0.0, tasks))
        elif roll < 0.18:
            other = [task._replace(digest=b"other") for task in tasks]
            events.append(Event(at + rng.random() * 5, "resubmit", rng.randrange(100), 0.0, other))
        if rng.random() < 0.35:
            grace = pick(rng, (0.0, 0.2, 1.0, 10.0, 20.0))
            events.append(Event(at + rng.random() * 3, "cancel", number, grace, tasks[0].task_id))
        if rng.random() < 0.2:
            events.append(Event(at + rng.random() * 3, "read", number, 0.0, tasks[0].task_id))
    intensity = pick(rng, (0.0, 0.3, 0.6, 1.0, 1.5))
    for _ in range(int(settings.seconds * intensity)):
        kind = rng.choices(KINDS, WEIGHTS)[0]
        at = rng.random() * settings.seconds
        events.append(Event(at, kind, rng.randrange(100), rng.random(), rng.randrange(1_000)))
    if len(settings.agents) >= 12 and rng.random() < 0.5:
        # Nothing else is wrong, so nobody may be lost.
        events = [event for event in events if event.kind not in KINDS]
        for number in range(rng.randrange(1, 3)):
            events.append(Event(6.0 + 12.0 * number, "hush", 0, rng.random()))
        agents = tuple(agent._replace(lease_ttl_ms=0) for agent in settings.agents)
        settings = settings._replace(seconds=30.0, agents=agents)
    events.sort(key=lambda event: event.at)
    return Plan(seed, settings, tuple(events))


def _settings(rng: Random) -> Settings:
    namespaces = ("one",) if rng.random() < 0.8 else ("one", "two")
    many = rng.random() < 0.12
    count = rng.randrange(12, 26) if many else rng.randrange(1, 7)
    agents = []
    for number in range(count):
        can = pick(rng, (TYPES, TYPES, TYPES[:1], TYPES[1:], (*TYPES, "gpu")))
        agents.append(
            AgentPlan(
                pick(rng, namespaces),
                f"a{number}",
                pick(rng, (1, 1, 2, 2, 3, 5)) if rng.random() < 0.96 else 0,
                frozenset(can),
                rng.random() < 0.25,
                pick(rng, (0, 0, 0, 2_000, 6_000)),
            )
        )
    rules = SessionRules(
        hold_min_ms=pick(rng, (10_000, 4_000, 1_000)),
        hold_per_session_ms=pick(rng, (2, 2, 700)),
        lost_after_ms=pick(rng, (750, 300)),
    )
    bounds = Bounds(
        mass_break=pick(rng, (MASS_BREAK_MIN, 1, 3)),
        mass_expiry=pick(rng, (MASS_EXPIRY_MIN_SESSIONS, 3, 5)),
        drains=pick(rng, (MAX_DRAINS, 1, 2)),
        kept_draws=pick(rng, (CHUNK_DRAWS, 2, 3)),
        ms_per_session=pick(rng, (MS_PER_SESSION, MS_PER_SESSION, MS_PER_SESSION, 3_000 // max(2, count))),
    )
    return Settings(
        namespaces,
        tuple(agents),
        rules,
        bounds,
        decline_share=pick(rng, (0.04, 0.04, 0.3)),
        obedience=pick(rng, (0.7, 0.3)),
        latency_s=pick(rng, (0.0005, 0.005, 0.05)),
        loss=pick(rng, (0.0, 0.0, 0.1, 0.3)),
        disk_s=pick(rng, (0.002, 0.01, 0.06)),
        recent_tasks=pick(rng, (10_000, 10_000, 10_000, 24)),
        seconds=rng.uniform(5.0, 20.0),
    )


def _task(rng: Random, number: int) -> TaskPlan:
    task_type = pick(rng, TYPES)
    roll = rng.random()
    requirements = None
    if roll < 0.1:
        requirements = Requirements(frozenset())
    elif roll < 0.15:
        requirements = Requirements(frozenset(TYPES))
    elif roll < 0.25:
        requirements = Requirements(frozenset((task_type,)), preferred_capabilities=frozenset(("gpu",)))
    elif roll < 0.27:
        no_label = (LabelCondition("zone", LabelOperator.NOT_EXISTS, ()),)
        requirements = Requirements(frozenset((task_type,)), no_label)
    retry = RetryPolicy(
        max_retries=pick(rng, (0, 1, 3)),
        initial_backoff_ms=pick(rng, (50, 300, 1_000)),
        multiplier=pick(rng, (1.0, 2.0)),
        max_backoff_ms=pick(rng, (1_000, 60_000)),
    )
    return TaskPlan(
        f"t{number}",
        task_type,
        b"d%d" % number,
        requirements,
        pick(rng, (DEFAULT_PRIORITY, DEFAULT_PRIORITY, rng.randrange(10))),
        pick(rng, (Strategy.LEAST_LOADED, Strategy.ROUND_ROBIN)),
        timeout_ms=pick(rng, (0, 0, 0, rng.randrange(100, 8_000))),
        queue_timeout_ms=pick(rng, (0, 0, 0, rng.randrange(100, 5_000))),
        execution_timeout_ms=pick(rng, (0, 0, rng.randrange(100, 2_000))),
        retry=retry,
        max_losses=pick(rng, (1, 2, 5)),
    )
