"""State of one namespace in memory, and the few operations on it that every handler needs.

Invariants (checked by ``invariants``): a task is in ``tasks`` exactly while it is open; a task is in its pool's queue
exactly while it is QUEUED; a task that is ASSIGNED or RUNNING is in ``held`` of exactly its own session.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import IntEnum
from itertools import count
from math import inf

from meshd.domain.agent_index import AgentIndex
from meshd.domain.drains import Drain
from meshd.domain.effects import Effects, Stream
from meshd.domain.frames import Assign, Feature
from meshd.domain.limits import RECENT_TASKS, SessionRules
from meshd.domain.liveness import Fleet
from meshd.domain.placement.pools import Pools
from meshd.domain.retry import Rng
from meshd.domain.swept_heap import SweptHeap
from meshd.domain.values import (
    Agent,
    Health,
    NamespaceInfo,
    Now,
    Session,
    Task,
    TaskState,
)


class Timer(IntEnum):
    """What is due."""

    DEADLINE = 1
    QUEUE_DEADLINE = 2
    EXECUTION = 3
    RETRY = 4
    GRACE = 5
    BROKEN = 6
    DISPATCH = 7


Due = tuple[float, int, Timer, Task | Session, int]
"""Monotonic time, number, and what is due; an attempt of 0 stands for the whole task."""


def is_over(timer: Due) -> bool:
    """Return whether a timer means nothing any more, since its task or its attempt has ended."""
    _, _, _, subject, attempt = timer
    return isinstance(subject, Task) and (subject.terminal or attempt not in (0, subject.attempt))


class Counter:
    """Hands out rising numbers; shared by the namespaces of a mesh."""

    def __init__(self, first: int) -> None:
        self._next = first

    def next(self) -> int:
        """Return the next number."""
        number = self._next
        self._next += 1
        return number


class Namespace:
    """Everything the mesh knows about one namespace. Only handlers change it."""

    def __init__(
        self,
        info: NamespaceInfo,
        rules: SessionRules,
        fleet: Fleet,
        keys: Counter,
        rng: Rng,
    ) -> None:
        self.info = info
        self.name = info.name
        self.rules = rules
        self.fleet = fleet
        self.keys = keys
        self.rng = rng
        self.tasks: dict[str, Task] = {}
        # An OrderedDict: a plain dict walks over the holes that its removed first items leave.
        self.recent: OrderedDict[str, Task] = OrderedDict()
        """Tasks that ended lately, oldest first."""
        self.ended_count = 0
        """Rises with every end; tells how far ``recent`` moved since a look into the store."""
        self.agents: dict[str, Agent] = {}
        """None is ever removed."""
        self.agent_index = AgentIndex()
        self.sessions: dict[str, Session] = {}
        self.drains: dict[str, Drain] = {}
        """Drains in force, by id."""
        self.pools = Pools()
        self.accept_due: deque[tuple[float, Session, Stream, list[bytes]]] = deque()
        """(due, session, stream, fences) in order of time: the timeout is the same for all."""
        self.must_dispatch = False
        self.timers: SweptHeap[Due] = SweptHeap(is_over)
        self._timer_numbers = count()
        self._fence_numbers = count(1)
        self.agent_revision = 0
        """Rises with every change of an agent."""
        self.task_revision = 0
        """Rises with every durable change of a task; the engine counts them once a turn."""

    # ---- time

    def arm(
        self,
        due_mono: float,
        kind: Timer,
        subject: Task | Session,
        attempt: int = 0,
    ) -> None:
        """Ask for a timer; whoever handles it checks that it still means something."""
        self.timers.push((due_mono, next(self._timer_numbers), kind, subject, attempt))

    def sent(self, stream: Stream, assigned: list[Assign], now_mono: float) -> None:
        """Note that assignments were let out to a stream whose agent must accept them in time.

        The time counts from here, not from the decision: a slow disk must not look like a deaf agent.
        """
        fences = [assign.fence for assign in assigned]
        # Not asked of the stream: what leaves together with Opened does so before the stream knows its session.
        for assign in assigned:
            task = self.tasks.get(assign.task_id)
            session = None if task is None else self.sessions.get(task.session_id)
            if session is not None and session.stream is stream:
                if Feature.ACCEPT in session.features:
                    due = now_mono + self.rules.accept_timeout_ms / 1000
                    self.accept_due.append((due, session, stream, fences))
                return

    def postpone_accepts(self, seconds: float, now_mono: float) -> None:
        """Give every awaited Accept more time, because the daemon itself stood still until now."""
        # What left after the pause and before it was noticed has all of its time, and must not hold up what leaves later.
        latest = now_mono + self.rules.accept_timeout_ms / 1000
        self.accept_due = deque(
            (min(due + seconds, latest), session, stream, fences)
            for due, session, stream, fences in self.accept_due
        )

    def next_due(self) -> float:
        """Return the monotonic time of the next timer; infinity without one."""
        first = self.timers.first()
        due = inf if first is None else first[0]
        return min(due, self.accept_due[0][0]) if self.accept_due else due

    def pop_due(self, now_mono: float) -> tuple[Timer, Task | Session, int] | None:
        """Take a timer that is due, or None."""
        first = self.timers.first()
        if first is None or first[0] > now_mono:
            return None
        _, _, kind, subject, attempt = self.timers.pop()
        return kind, subject, attempt

    # ---- numbers

    def next_fence_number(self) -> int:
        """Return a number above all handed out before, in this epoch or an earlier one."""
        return (self.info.epoch << 40) + next(self._fence_numbers)

    # ---- tasks

    def enqueue(self, task: Task) -> None:
        """Put a task that has just become QUEUED into its pool's queue."""
        self.pools.push(task)
        self.must_dispatch = True

    def unqueue(self, task: Task) -> None:
        """Note that a QUEUED task is about to become something else without being drawn."""
        if task.state is TaskState.QUEUED:
            self.pools.removed(task)

    def archive(self, task: Task) -> None:
        """Move an ended task from the open to the recent ones."""
        del self.tasks[task.spec.task_id]
        self.recent[task.spec.task_id] = task
        self.ended_count += 1
        if len(self.recent) > RECENT_TASKS:
            self.recent.popitem(last=False)
        self.timers.sweep()

    # ---- agents

    def add_agent(self, agent: Agent) -> None:
        """Take in an agent that is not known yet."""
        self.agents[agent.spec.agent_id] = agent
        self.agent_index.add(agent)

    def set_health(self, agent: Agent, health: Health, cause: str, now: Now, out: Effects) -> None:
        """Change an agent's health with its cause; durable with the agent's next write."""
        agent.health = health
        agent.health_ms = now.wall_ms
        agent.health_cause = cause
        self.agent_changed(agent, out)
        out.count("health", health.name)

    def agent_changed(self, agent: Agent, out: Effects) -> None:
        """Note a change of an agent that others may see."""
        self.agent_revision += 1
        agent.revision = self.agent_revision
        out.changed_agents.append(agent)

    def free_slot_changed(self, session: Session) -> None:
        """Note that a session's load changed."""
        self.pools.update(session)
        self.must_dispatch = True
