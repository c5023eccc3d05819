"""The oracle's account of agents: their health is said right, what was asked about them happens, watchers are told."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, AgentSpec, AttemptState, Health, OutcomeReason, Session
from tests.simulation.history import plain
from tests.simulation.picture import Picture, Turn
from tests.simulation.violation import Violation


class Agents:
    """Agents before and after a turn."""

    def __init__(self) -> None:
        self._before = Picture()
        self._said: AgentSpec | None = None
        self._sends = 0
        self._next_due = 0.0

    def before(self, ns: Namespace, batch: list[c.Command], out: Effects, picture: Picture) -> None:
        """Note how everybody is, and what a process says of itself."""
        self._sends = len(out.sends)
        self._next_due = ns.next_due()
        said = [command.spec for command in batch if isinstance(command, c.Register)]
        self._said = copy(said[0]) if len(batch) == len(said) == 1 else None
        self._before = picture

    def check_watchers(self, turn: Turn, batch: list[c.Command], out: Effects, mono: float) -> None:
        """Every change of an agent is told to those who watch, and nothing else."""
        for agent in turn.agents:
            if agent not in out.changed_agents:
                raise Violation(f"watchers of agents do not see the change of {agent.spec.agent_id}")
        if len(batch) <= 1 and self._next_due > mono:
            for agent in out.changed_agents:
                if agent not in turn.agents:
                    raise Violation(f"watchers of agents are told of {agent.spec.agent_id} without news")
        if sum(isinstance(command, (c.StartDrain, c.LiftDrain)) for command in batch) <= 1:
            self._check_told_of_drains(turn, out)

    def _check_told_of_drains(self, turn: Turn, out: Effects) -> None:
        told = {stream for stream, frame in out.sends[self._sends :] if type(frame) is f.Drain}
        changed = turn.sessions
        if told:
            changed = list(turn.after.sessions)
        for session in changed:
            if session.stream is None:
                continue
            stream, drained = self._drained(session)
            # Another reason for being drained is no news to the agent.
            news = session.drained and (stream is not session.stream or not drained)
            understands = session.takes_work and f.Feature.DRAIN in session.features
            if bool(news and understands) is not (session.stream in told):
                name = session.agent.spec.agent_id
                raise Violation(
                    f"{name} is not told that it is drained, or without need, or does not understand"
                )

    def _drained(self, session: Session) -> tuple[object | None, str]:
        """Return the stream that a session had, and why it was drained."""
        before = self._before.sessions.get(session)
        return (None, "") if before is None else (before.stream, before.drained)

    def after(self, ns: Namespace, turn: Turn, batch: list[c.Command]) -> None:
        """Check what a turn made of the agents."""
        agents = dict.fromkeys(turn.agents)
        agents.update((session.agent, None) for session in turn.sessions)
        self._check_health(ns, agents)
        self._check_asked(ns, batch)
        if len(batch) == 1:
            self._check_spec(ns, batch[0])
            self._check_session(ns, batch[0])
        drains = [command for command in batch if isinstance(command, c.StartDrain)]
        if len(drains) == 1:
            self._check_hand_over(ns, drains[0], {attempt.fence for attempt in self._before.stopping()})

    def _check_spec(self, ns: Namespace, command: c.Command) -> None:
        """A process counts for what it said, and where it said nothing, for what was known; a declaration while none runs."""
        if not isinstance(command, (c.Register, c.Declare)):
            return
        agent = ns.agents[command.spec.agent_id]
        was = self._before.agents.get(agent)
        known = None if was is None else was.spec
        spec = agent.spec
        if isinstance(command, c.Declare):
            # Of one that ended in this turn it is open which came first.
            ran = was is not None and was.session is not None
            declared = agent.session is None and spec == command.spec
            if not declared and not (ran and spec == known):
                raise Violation(f"{spec.agent_id} is not what was declared, or not what runs")
        elif agent.session not in self._before.sessions and spec is not command.spec:
            raise Violation(f"{spec.agent_id} registered and still counts for what it was before")
        elif known is not None and spec is command.spec and self._said is not None:
            said = self._said
            if (spec.name, spec.labels) != (said.name or known.name, said.labels or known.labels):
                raise Violation(f"{spec.agent_id} lost its name or labels, its own or those declared")
            source = said if said.host or said.port else known
            if (spec.host, spec.port, spec.dns_name) != (source.host, source.port, source.dns_name):
                raise Violation(f"{spec.agent_id} lost its endpoint, its own or the one declared")

    def _check_session(self, ns: Namespace, command: c.Command) -> None:
        """A session is its own process's: by its key, its token and its rising streams; and it ends when that says Bye."""
        if isinstance(command, c.Register):
            session = ns.agents[command.spec.agent_id].session
            if session is None or session.key_hash != command.key_hash:
                raise Violation(f"{command.spec.agent_id} registered and got no session of its own")
        elif isinstance(command, c.OpenStream):
            session = ns.sessions.get(command.session_id)
            if session is None or session.stream is not command.stream:
                return
            own = (session.resume_hash, session.agent.spec.agent_id)
            if own != (command.resume_hash, command.agent_id) or session.stream_seq != command.stream_seq:
                raise Violation(f"a stream of {session.agent.spec.agent_id} was opened by a stranger")
            if self._drained(session)[0] is not None and command.stream_seq < 1:
                raise Violation(f"an older stream of {session.agent.spec.agent_id} took the place of a newer")
        elif isinstance(command, c.Frames) and self._drained(command.session)[0] is command.stream:
            session = command.session
            name = session.agent.spec.agent_id
            if any(isinstance(frame, f.Bye) for frame in command.frames):
                if session.session_id in ns.sessions:
                    raise Violation(f"{name} said Bye and still has a session")
                return
            slots = [frame.slots for frame in command.frames if isinstance(frame, f.Slots)]
            if slots and session.slots != slots[-1]:
                raise Violation(f"{name} has {session.slots} slots and said {slots[-1]}")

    @staticmethod
    def _check_health(ns: Namespace, agents: Iterable[Agent]) -> None:
        """Every agent's health says how it is."""
        for agent in agents:
            session, health = agent.session, agent.health
            name = agent.spec.agent_id
            if session is None:
                right = health in (Health.DECLARED, Health.LOST)
            elif ns.sessions.get(session.session_id) is not session:
                raise Violation(f"{name} has a session that is over")
            elif session.stream is None:
                right = health is Health.SUSPECT
            elif session.deaf:
                right = health is Health.DEAF
            elif session.bucket >= 0:
                right = health is Health.HEALTHY
            elif not session.takes_work:
                right = health in (Health.HEALTHY, Health.SUSPECT)
            else:
                idles = session.slots == 0 and agent.spec.slots > 0
                out_of_work = Health.DRAINING if session.drained or idles else Health.HEALTHY
                right = (
                    health is Health.SUSPECT
                    or (health is out_of_work and session.slots == 0)
                    or (health is Health.DRAINING and bool(session.drained))
                )
            words = {Health.DRAINING: "takes work", Health.HEALTHY: "takes nothing new"}.get(health)
            if agent.health_cause == words:
                raise Violation(f"{name} counts as {health.name} because it {words}")
            if session and health is Health.DRAINING and session.drained not in ("", agent.health_cause):
                raise Violation(f"{name} is drained: {session.drained}, and shown is {agent.health_cause}")
            if not agent.health_cause:
                raise Violation(f"{name} counts as {health.name} and nobody says why")
            if not right:
                raise Violation(f"{name} counts as {health.name} with {plain(session)}")

    @staticmethod
    def _check_hand_over(ns: Namespace, command: c.StartDrain, stopping: set[bytes]) -> None:
        """What a drained agent runs is handed over exactly if that was asked for."""
        if command.drain.drain_id not in ns.drains:
            # Refused: there are too many.
            return
        for session in ns.sessions.values():
            if not command.drain.selector.matches(session.agent.spec):
                continue
            for fence, task in session.held.items():
                stops = task.attempt_state is AttemptState.STOPPING
                handed = stops and task.cancel_cause is OutcomeReason.NONE and fence not in stopping
                if (command.hand_over and not stops) or (handed and not command.hand_over):
                    raise Violation(f"{task.spec.task_id} is handed over or not against the wish")

    @staticmethod
    def _check_asked(ns: Namespace, batch: list[c.Command]) -> None:
        """What was asked for about agents in this turn has happened."""
        registered = {x.spec.agent_id for x in batch if isinstance(x, c.Register)}
        for command in batch:
            if isinstance(command, c.RevokeAgent) and command.agent_id not in registered:
                known = ns.agents.get(command.agent_id)
                if known is not None and known.session is not None:
                    raise Violation(f"{command.agent_id} was revoked and still has a session")
            elif isinstance(command, c.Deregister) and command.session_id in ns.sessions:
                if ns.sessions[command.session_id].agent.spec.agent_id == command.agent_id:
                    raise Violation(f"{command.agent_id} deregistered and still has a session")
            elif isinstance(command, (c.Register, c.Declare)) and command.spec.agent_id not in ns.agents:
                raise Violation(f"{command.spec.agent_id} is not known")
