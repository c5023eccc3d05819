"""How everybody was at the end of the last turn that was judged: what the next one is judged against.

Rule: a picture is taken once and shared by all who judge. What has not changed since, and was told nothing, was right
already; so only what differs is looked at. Where a turn is passed over because nothing can have changed in it, the picture
stays: whatever changed all the same is then a change that the next judged turn has to explain.
"""

from __future__ import annotations

from meshd.domain.state import Namespace
from meshd.domain.values import Agent, AttemptState, Session, Task


class Attempt:
    """An attempt that a session held."""

    def __init__(self, fence: bytes, task: Task) -> None:
        self.fence = fence
        self.task = task
        self.state = task.attempt_state
        self.losses = task.losses
        self.progress = task.progress
        self.cancel_grace_ms = task.cancel_grace_ms
        self.cancel_cause = task.cancel_cause
        self.cancel_ms = task.cancel_ms
        self.accept_ms = task.accept_ms

    def is_still(self, fence: bytes, task: Task) -> bool:
        """Return whether nothing of it has changed."""
        return (
            self.task is task
            and self.state is task.attempt_state
            and self.fence == fence
            and self.losses == task.losses
            and self.progress is task.progress
            and self.is_stopped_alike()
        )

    def is_stopped_alike(self) -> bool:
        """Return whether its task is being stopped for the same reason and with the same grace, or still is not."""
        task = self.task
        return (
            self.cancel_grace_ms == task.cancel_grace_ms
            and self.cancel_cause is task.cancel_cause
            and self.cancel_ms == task.cancel_ms
        )


class OfSession:
    """How a session was."""

    def __init__(self, session: Session) -> None:
        self.stream = session.stream
        self.stream_seq = session.stream_seq
        self.features = session.features
        self.takes_work = session.takes_work
        self.slots = session.slots
        self.drained = session.drained
        self.deaf = session.deaf
        self.bucket = session.bucket
        self.health = session.agent.health
        self.health_cause = session.agent.health_cause
        self.held = dict(session.held)
        self.quarantine = set(session.quarantine)
        self.attempts = [Attempt(fence, task) for fence, task in session.held.items()]

    def is_still(self, session: Session) -> bool:
        """Return whether nothing of the session has changed."""
        return (
            self.stream is session.stream
            and self.slots == session.slots
            and self.bucket == session.bucket
            and self.deaf is session.deaf
            and self.health is session.agent.health
            and self.drained == session.drained
            and self.stream_seq == session.stream_seq
            and self.takes_work is session.takes_work
            and self.features is session.features
            and self.health_cause == session.agent.health_cause
            and self.quarantine == session.quarantine
            and len(self.attempts) == len(session.held)
            and self._holds_still(session)
        )

    def _holds_still(self, session: Session) -> bool:
        attempts = self.attempts
        for number, (fence, task) in enumerate(session.held.items()):
            if not attempts[number].is_still(fence, task):
                return False
        return True

    def unaccepted(self) -> list[tuple[bytes, Task]]:
        """Return the attempts that the agent had not accepted."""
        return [(a.fence, a.task) for a in self.attempts if a.state is AttemptState.ASSIGNED]


class OfAgent:
    """How an agent was, as others may see it."""

    def __init__(self, agent: Agent) -> None:
        self.health = agent.health
        self.health_cause = agent.health_cause
        self.spec = agent.spec
        self.session = agent.session
        self.slots = None if agent.session is None else agent.session.slots

    def is_still(self, agent: Agent) -> bool:
        """Return whether nothing of the agent has changed."""
        session = agent.session
        return (
            self.health is agent.health
            and (self.spec is agent.spec or self.spec == agent.spec)
            and self.session is session
            and (session is None or self.slots == session.slots)
            and self.health_cause == agent.health_cause
        )


class Picture:
    """How a namespace was."""

    def __init__(self) -> None:
        self.sessions: dict[Session, OfSession] = {}
        self.agents: dict[Agent, OfAgent] = {}

    def own(self, agent_id: str) -> Session | None:
        """Return the session that an agent had."""
        return next((s for s in self.sessions if s.agent.spec.agent_id == agent_id), None)

    def stopping(self) -> list[Attempt]:
        """Return the attempts that were being stopped."""
        return [
            attempt
            for session in self.sessions.values()
            for attempt in session.attempts
            if attempt.state is AttemptState.STOPPING
        ]


class Turn:
    """What changed since a picture was taken, and the next picture."""

    def __init__(self, before: Picture, ns: Namespace) -> None:
        self.after = after = Picture()
        self.sessions: list[Session] = []
        """Those that are new or changed."""
        self.agents: list[Agent] = []
        """Likewise."""
        for session in ns.sessions.values():
            was = before.sessions.get(session)
            if was is None or not was.is_still(session):
                was = OfSession(session)
                self.sessions.append(session)
            after.sessions[session] = was
        for agent in ns.agents.values():
            agent_was = before.agents.get(agent)
            if agent_was is None or not agent_was.is_still(agent):
                agent_was = OfAgent(agent)
                self.agents.append(agent)
            after.agents[agent] = agent_was
        self.gone = [session for session in before.sessions if session not in after.sessions]
