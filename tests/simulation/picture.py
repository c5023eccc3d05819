"""How everybody was at the end of the last turn that was judged: what the next one is judged against.

Rule: a picture is taken once and shared by all who judge. What has not changed since, and was told nothing, was right
already; so only what differs is looked at. Where a turn is passed over because nothing can have changed in it, the picture
stays: whatever changed all the same is then a change that the next judged turn has to explain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from meshd.domain.state import Namespace
from meshd.domain.values import Agent, AgentSpec, AttemptState, Health, OutcomeReason, Session, Task


class Attempt(NamedTuple):
    """An attempt that a session held."""

    fence: bytes
    task: Task
    state: AttemptState
    losses: int
    progress: tuple[int, int, float | None, str] | None
    cancel_grace_ms: int
    cancel_cause: OutcomeReason
    cancel_ms: int


class OfSession(NamedTuple):
    """How a session was."""

    stream: object | None
    stream_seq: int
    features: frozenset[int]
    takes_work: bool
    slots: int
    drained: str
    deaf: bool
    bucket: int
    health: Health
    health_cause: str
    held: dict[bytes, Task]
    quarantine: set[bytes]
    attempts: list[Attempt]

    def unaccepted(self) -> list[tuple[bytes, Task]]:
        """Return the attempts that the agent had not accepted."""
        return [(a.fence, a.task) for a in self.attempts if a.state is AttemptState.ASSIGNED]


class OfAgent(NamedTuple):
    """How an agent was, as others may see it."""

    health: Health
    health_cause: str
    spec: AgentSpec
    session: Session | None
    slots: int | None


NOTHING: dict[bytes, Task] = {}
NONE_QUARANTINED: set[bytes] = set()
NO_ATTEMPTS: list[Attempt] = []


def of_session(s: Session) -> OfSession:
    """Take the picture of a session."""
    agent = s.agent
    return OfSession(
        s.stream,
        s.stream_seq,
        s.features,
        s.takes_work,
        s.slots,
        s.drained,
        s.deaf,
        s.bucket,
        agent.health,
        agent.health_cause,
        dict(s.held) if s.held else NOTHING,
        set(s.quarantine) if s.quarantine else NONE_QUARANTINED,
        [
            Attempt(
                x, t, t.attempt_state, t.losses, t.progress, t.cancel_grace_ms, t.cancel_cause, t.cancel_ms
            )
            for x, t in s.held.items()
        ]
        if s.held
        else NO_ATTEMPTS,
    )


def of_agent(agent: Agent) -> OfAgent:
    """Take the picture of an agent."""
    session = agent.session
    slots = None if session is None else session.slots
    return OfAgent(agent.health, agent.health_cause, agent.spec, session, slots)


class Picture:
    """How a namespace was."""

    def __init__(self, sessions: Iterable[Session], agents: Iterable[Agent]) -> None:
        self.sessions = {session: of_session(session) for session in sessions}
        self.agents = {agent: of_agent(agent) for agent in agents}

    @classmethod
    def of(cls, ns: Namespace) -> Picture:
        """Take the picture of a namespace."""
        return cls(ns.sessions.values(), ns.agents.values())

    @classmethod
    def of_nothing(cls) -> Picture:
        """Return the picture before there is anything."""
        return cls((), ())

    def own(self, agent_id: str) -> Session | None:
        """Return the session that an agent had."""
        return next((s for s in self.sessions if s.agent.spec.agent_id == agent_id), None)

    def stopping(self) -> Iterable[Attempt]:
        """Yield the attempts that were being stopped."""
        for session in self.sessions.values():
            for attempt in session.attempts:
                if attempt.state is AttemptState.STOPPING:
                    yield attempt


class Turn:
    """What one turn changed."""

    def __init__(self, before: Picture, after: Picture) -> None:
        self.before = before
        self.after = after
        self.sessions = [s for s, picture in after.sessions.items() if before.sessions.get(s) != picture]
        """Those that are new or changed."""
        self.gone = [s for s in before.sessions if s not in after.sessions]
        self.agents = [a for a, picture in after.agents.items() if before.agents.get(a) != picture]
