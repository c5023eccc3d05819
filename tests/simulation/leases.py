"""The oracle's account of sessions: who gave a sign of life when, and who may or must be lost (P4, P5, P12).

It counts from what it saw arrive, not from the domain's fields; how long the daemon was frozen it knows from the world.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, AttemptState, Health, Now, Session
from tests.simulation.pace import Pace
from tests.simulation.picture import OfSession, Picture, Turn
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.network import Link
    from tests.simulation.world import World

STALL_SLACK_S: Final = 0.5
"""Of every pause of the daemon, so much is ordinary."""
LATELY_S: Final = 1.0
"""Nobody is late so soon after a sign of life: every bound on silence is longer."""
SWEEP_S: Final = 0.25
"""So much before or after the moment judged here a sweep may have come."""
BY_CONNECTION: Final = "its connection ended and it did not return"
BY_HOLD: Final = "it did not return after the restart"
BY_LEASE: Final = "no sign of life within its lease"
MEASURED_AS: Final = {BY_CONNECTION: "connection", BY_HOLD: "hold", BY_LEASE: "ttl"}
DOUBTED: Final = (Health.SUSPECT, Health.DEAF)
MAY_STOP_OR_END: Final = (c.Frames, c.OpenStream, c.Deregister, c.RevokeAgent, c.Cancel, c.StartDrain)
"""Commands after which, in the same turn, a loss need not count."""


class Seen:
    """What was seen of one session."""

    __slots__ = ("alive", "broken", "hold_until", "restored", "return_s", "session", "since")

    def __init__(self, session: Session, alive: float, *, restored: bool) -> None:
        self.session = session
        self.since = alive
        self.alive = alive
        self.broken: float | None = None
        """When its stream ended, and none has opened since."""
        self.return_s = 0.0
        """So long a fleet as it was then takes to come back."""
        self.hold_until = 0.0
        """When the hold was to end as its stream ended."""
        self.restored = restored
        """It has not come back since the daemon started."""


class Deafness:
    """How often in a row a session left assignments unanswered, and until when it gets none for that."""

    def __init__(self) -> None:
        self.lasts = False
        self.count = 0
        self.until = 0.0

    def begins(self, now: float) -> None:
        """It left one unanswered."""
        self.lasts = True
        self.count += 1
        self.until = now + (0.0 if self.count == 1 else min(60.0, 2.0 ** (self.count - 2)))

    def heard(self, command: c.Frames, before: OfSession | None, now: float) -> None:
        """It speaks, perhaps of an attempt of which it said nothing before."""
        if now >= self.until:
            self.lasts = False
        new = {a.fence for a in before.attempts if not a.accept_ms} if before is not None else set()
        if any(getattr(frame, "fence", None) in new for frame in command.frames):
            self.count, self.until = 0, 0.0


class Leases:
    """Signs of life and losses in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pace = Pace(world)
        self._seen: dict[Session, Seen] = {}
        self._sent: dict[bytes, tuple[Link, float]] = {}
        self._before: dict[Session, OfSession] = {}
        self._breaks: dict[Agent, float] = {}
        """When connections of agents broke for the last time."""
        self._maybe_breaks: list[tuple[Agent, float]] = []
        """All, and those as well after which the next stream opened in the same turn."""
        self._ttl_losses: list[tuple[float, float, float, Seen]] = []
        """(when, the TTL, when it was over, what was seen) of sessions lost by it."""
        self._other_losses: list[tuple[float, Session]] = []
        """When which sessions were lost by anything but their lease."""
        self._silences: list[tuple[float, float]] = []
        """When leases were over of sessions that were heard again or replaced, and when that was."""
        self._sweeps: list[float] = []
        """When the mesh looked at all sessions: only then it begins to suspect itself."""
        self._overs: dict[Session, float] = {}
        """When the leases of those who may be heard in a turn were over, by what they went by before it."""
        self._deafness: dict[Session, Deafness] = {}
        self._listening_since = 0.0
        self._hold_until = 0.0
        self._hold_latest = 0.0
        self._most = 0

    def started(self, daemon: Daemon) -> None:
        """A life of the daemon begins: all restored sessions have until the end of the hold."""
        self.listening(daemon)
        self._most = 0
        self.pace.started(daemon)
        self._sent.clear()
        self._deafness.clear()
        self._breaks.clear()
        self._maybe_breaks.clear()
        self._ttl_losses.clear()
        self._other_losses.clear()
        self._silences.clear()
        self._sweeps.clear()

    def listening(self, daemon: Daemon) -> None:
        """Nobody could come back before: the hold counts from now on."""
        sessions = daemon.sessions()
        now = self._listening_since = self.world.time.now
        rules = self.world.rules
        hold_s = max(rules.hold_min_ms, rules.hold_per_session_ms * len(sessions)) / 1000
        self._hold_until = now + hold_s if sessions else 0.0
        self._hold_latest = now + 2 * hold_s
        self._seen = {s: Seen(s, now, restored=True) for s in sessions}

    def assigned(self, link: Link, fences: list[bytes]) -> None:
        """Assignments were let out."""
        for fence in fences:
            self._sent[fence] = (link, self.world.time.now)

    def before(self, out: Effects, picture: Picture) -> None:
        """Note what was said and how everybody was."""
        self.pace.before(out)
        self._before = picture.sessions

    def heard(self, ns: Namespace, batch: list[c.Command], out: Effects, now: Now) -> set[Session]:
        """Note signs of life; return of whom."""
        self._note_overs(ns, batch, now.mono)
        self.pace.after(ns, batch, out, now.mono)
        said: set[Session] = set()
        for command in batch:
            self._command(ns, command, now.mono, said)
        return said

    def after(
        self, daemon: Daemon, turn: Turn, batch: list[c.Command], said: set[Session], out: Effects, now: Now
    ) -> None:
        """Judge who is gone, trusted or deaf."""
        self._other_losses += [(now.mono, s) for s in turn.gone if s.agent.health_cause != BY_LEASE]
        for session in turn.gone:
            name = session.agent.spec.agent_id
            if session not in said:
                self._judge(daemon, session, now.mono)
                cause = MEASURED_AS[session.agent.health_cause]
                if self._before[session].held and ("lost", cause) not in out.counts:
                    raise Violation(f"what {name} held is not counted as lost by {cause}")
            self._judge_losses(session, batch, now.mono)
            seen = self._seen.pop(session, None)
            if seen is not None and session.agent.health_cause != BY_LEASE:
                self._note_silence(self._over(session, seen), now.mono)
        for session in turn.sessions:
            before, health = self._before.get(session), session.agent.health
            if before is None or session in said:
                continue
            if before.health in DOUBTED and health not in DOUBTED:
                name = session.agent.spec.agent_id
                raise Violation(f"{name} was in doubt and is trusted, but has not spoken")
            if session.deaf and health is Health.DEAF:
                self._judge_deaf(session, before, now.mono)
        for session in said.union(turn.sessions):
            if session.deaf or session in self._deafness:
                self._judge_deafness(session, now.mono)

    def _command(self, ns: Namespace, command: c.Command, mono: float, said: set[Session]) -> None:
        kind = type(command)
        if kind is c.Frames:
            assert isinstance(command, c.Frames)
            session = command.session
            before = self._before.get(session)
            if command.stream is session.stream or (before and command.stream is before.stream):
                said.add(session)
                if session in self._seen:
                    self._heard(session, self._seen[session], mono)
                    self._judge_heard(ns, command, mono)
        elif kind is c.OpenStream:
            assert isinstance(command, c.OpenStream)
            opened = ns.sessions.get(command.session_id)
            if opened is not None and opened.stream is command.stream:
                said.add(opened)
                self._deafness.pop(opened, None)
                self._opened(opened, mono)
        elif kind is c.StreamEnded:
            assert isinstance(command, c.StreamEnded)
            seen = self._seen.get(command.session)
            before = self._before.get(command.session)
            if before is not None and command.stream is before.stream:
                self._maybe_breaks.append((command.session.agent, mono))
                # The mesh may have counted this one, or the one before.
                self._breaks.pop(command.session.agent, None)
            if seen is not None and command.session.stream is None and seen.broken is None:
                seen.broken = mono
                seen.return_s = self.pace.return_s()
                seen.hold_until = self._hold_until
                self._breaks[command.session.agent] = mono
        elif kind in (c.Register, c.Deregister, c.RevokeAgent):
            agent_id = command.spec.agent_id if isinstance(command, c.Register) else command.agent_id  # type: ignore[union-attr]
            said.update(s for s in self._before if s.agent.spec.agent_id == agent_id)
            for session in ns.sessions.values():
                if session not in self._seen:
                    self._seen[session] = Seen(session, mono, restored=False)

    def _opened(self, session: Session, mono: float) -> None:
        """Note a return: while restored sessions come back the others are waited for, up to twice the hold."""
        seen = self._seen.get(session)
        if seen is not None and not seen.restored:
            self._heard(session, seen, mono)
        elif seen is not None and mono < self._hold_until:
            self._hold_until = max(self._hold_until, min(mono + 1.0, self._hold_latest))
        self._seen[session] = Seen(session, mono, restored=False)

    def _note_overs(self, ns: Namespace, batch: list[c.Command], mono: float) -> None:
        """Look at those who have been silent for long, before the turn tells them another lease."""
        self._overs.clear()
        for command in batch:
            session: Session | None = None
            if isinstance(command, c.Frames):
                session = command.session
            elif isinstance(command, c.OpenStream):
                session = ns.sessions.get(command.session_id)
            seen = None if session is None else self._seen.get(session)
            if seen is not None and mono - seen.alive >= LATELY_S:
                self._overs[seen.session] = self._over(seen.session, seen)

    def _heard(self, session: Session, seen: Seen, mono: float) -> None:
        """Note a sign of life, and the silence before it when that was long."""
        self._note_silence(self._overs.pop(session, inf), mono)
        seen.alive = mono

    def _note_silence(self, over: float, until: float) -> None:
        if until >= over:
            self._silences.append((over, until))

    def _over(self, session: Session, seen: Seen) -> float:
        """Return when a lease is over by what was seen, if the daemon does not stand still."""
        over = seen.alive + self._ttl(session)
        if seen.broken is not None and not session.agent.spec.lease_ttl_ms:
            # Stretched for slow beats, a lease says nothing about coming back.
            over = min(over, max(seen.broken + seen.return_s, seen.hold_until))
        return over

    def _judge_heard(self, ns: Namespace, command: c.Frames, mono: float) -> None:
        """An agent that was heard gets work again."""
        session = command.session
        if session in self._deafness:
            self._deafness[session].heard(command, self._before.get(session), mono)
        if session.session_id not in ns.sessions or session.stream is None:
            return
        name = session.agent.spec.agent_id
        wants = session.takes_work and session.slots > 0 and not session.drained
        if wants and not session.deaf and session.bucket < 0:
            raise Violation(f"{name} has spoken and is offered no work")

    def _ttl(self, session: Session) -> float:
        return self.pace.ttl_s(session)

    def _usual_ttl(self, session: Session) -> float:
        """Return the TTL as it is set, not stretched for a large fleet."""
        return (session.agent.spec.lease_ttl_ms or self.world.rules.lease_ttl_ms) / 1000

    def _frozen_since(self, since: float, slack: float) -> float:
        return sum(max(0.0, length - slack) for end, length in self.world.daemon_freezes if end >= since)

    def _judge(self, daemon: Daemon, session: Session, now: float) -> None:
        seen = self._seen[session]
        name = session.agent.spec.agent_id
        silence = now - seen.alive
        frozen = self._frozen_since(seen.alive, STALL_SLACK_S)
        cause = session.agent.health_cause
        if seen.restored:
            if cause != BY_HOLD:
                raise Violation(f"{name} has not returned since the start and is lost because of {cause!r}")
            if now < self._hold_until:
                raise Violation(f"P5: {name} was lost {self._hold_until - now:.3f} s before the hold ended")
            return
        if cause == BY_LEASE:
            allowed = self._ttl(session) + frozen
            if seen.broken is not None and not session.agent.spec.lease_ttl_ms:
                # Stretched for slow beats, a lease says nothing about coming back.
                back = max(seen.broken + seen.return_s, seen.hold_until) - seen.alive
                allowed = min(allowed, back + self._frozen_since(seen.broken, STALL_SLACK_S))
            if silence < allowed - 0.001:
                raise Violation(f"P12: {name} was lost {silence:.3f} s after a sign of life")
            self._ttl_losses.append((now, self._ttl(session), self._over(session, seen), seen))
            self._judge_mass(daemon, name, now)
            return
        self._judge_connection(session, seen, now)

    def _judge_connection(self, session: Session, seen: Seen, now: float) -> None:
        name = session.agent.spec.agent_id
        cause = session.agent.health_cause
        if cause != BY_CONNECTION or seen.broken is None:
            raise Violation(f"{name}, whose connection ended at {seen.broken}, was lost because of {cause!r}")
        lost_after = self.world.rules.lost_after_ms / 1000
        if now - seen.broken < lost_after - 0.002:
            raise Violation(f"{name} was lost {now - seen.broken:.3f} s after its connection ended")
        if now < self._hold_until:
            raise Violation(f"P5: {name} was lost by its connection within the hold")
        together = sum(abs(at - seen.broken) <= 1.0 for at in self._breaks.values())
        if together > self.world.plan.settings.bounds.mass_break:
            raise Violation(f"{name} was lost by its connection though {together} broke together")
        since_stall = [
            seen.broken - end
            for end, length in self.world.daemon_freezes
            if length > 0.51 and end > self._listening_since
        ]
        if any(-0.3 < s < self._usual_ttl(session) - 0.3 for s in since_stall):
            raise Violation(f"P12: {name} was lost by its connection right after a stall of the daemon")
        if now - seen.broken - self._frozen_since(seen.broken, STALL_SLACK_S) < lost_after - 0.002:
            raise Violation(f"P12: {name} was lost by its connection, and the daemon stood still meanwhile")

    def _judge_losses(self, session: Session, batch: list[c.Command], now: float) -> None:
        """Only a death by its connection, or by another process in its place, counts, and only after Accept."""
        agent_id = session.agent.spec.agent_id
        if any(isinstance(x, MAY_STOP_OR_END) for x in batch):
            return
        death = any(isinstance(x, c.Register) and x.spec.agent_id == agent_id for x in batch)
        if not death:
            seen = self._seen[session]
            death = not seen.restored and session.agent.health_cause == BY_CONNECTION
        for attempt in self._before[session].attempts:
            task, losses = attempt.task, attempt.losses
            if task.spec.execution_timeout_ms or task.deadline_ms:
                # Its time may have been over in the same turn.
                continue
            counts = death and attempt.state is AttemptState.RUNNING
            if task.losses != losses + counts:
                raise Violation(
                    f"{task.spec.task_id} counts {task.losses} losses after {losses} when {agent_id} went"
                )

    def _judge_mass(self, daemon: Daemon, name: str, now: float) -> None:
        """More than half at once: the mesh must have suspected itself for one TTL first."""
        ttl = self.world.rules.lease_ttl_ms / 1000
        together = [own for at, own, _, _ in self._ttl_losses if now - at < 0.001]
        # Who had a second TTL is no sign of a stall.
        lately = [
            (at, own) for at, own, over, _ in self._ttl_losses if now - at < ttl - SWEEP_S and at - over < ttl
        ]
        # Those that go in the same sweep by something else were there too, and are no sign of a stall either.
        others = sum(now - at < 0.001 and session not in self._seen for at, session in self._other_losses)
        there = len(self._seen) + len(together) - 1
        total = there + others + sum(now - at >= 0.001 for at, _ in lately)
        if there < self.world.plan.settings.bounds.mass_expiry or 2 * len(lately) <= total:
            return
        silences = [now - seen.alive for seen in self._seen.values() if not seen.restored]
        waited = max(silences, default=ttl) >= min(own for _, own in lately) + ttl - 0.01
        begun = any(self._suspected(now - ttl - early) for early in (SWEEP_S, 0.0, -SWEEP_S))
        if not waited and not begun:
            raise Violation(f"{name} and {len(lately)} of {total} were lost together without a second TTL")

    def _suspected(self, at: float) -> bool:
        """Return whether the mesh had reason to suspect itself then: more than half silent for a TTL, or just lost so."""
        ttl = self.pace.fleet_s()
        before = sum(at - ttl <= when <= at for when, _, _, _ in self._ttl_losses)
        overs = [over for when, _, over, seen in self._ttl_losses if when > at and seen.since <= at]
        # That somebody did not return within the hold is no reason.
        overs += [
            inf if seen.restored else self._over(session, seen)
            for session, seen in self._seen.items()
            if seen.since <= at
        ]
        silent = sum(over <= at for over in overs) + sum(over <= at < end for over, end in self._silences)
        return at >= self._listening_since and 2 * (before + silent) > len(overs) + before

    def _doubts(self, since: float, until: float) -> bool:
        """Return whether the mesh had reason to suspect itself at any time."""
        return any(self._suspected(at) for at in self._sweeps if since <= at <= until)

    def _judge_deafness(self, session: Session, now: float) -> None:
        """Who left assignments unanswered gets none until it speaks, and later each time in a row."""
        name = session.agent.spec.agent_id
        known = self._deafness.setdefault(session, Deafness())
        if known.lasts and not session.deaf:
            raise Violation(
                f"{name} is trusted {known.until - now:.3f} s before it may be, or has not spoken"
            )
        if session.deaf and not known.lasts:
            before = self._before.get(session)
            if before is None or all(fence in session.held for fence, _ in before.unaccepted()):
                raise Violation(f"{name} has spoken and still counts as deaf")
            known.begins(now)

    def _judge_deaf(self, session: Session, before: OfSession, now: float) -> None:
        name = session.agent.spec.agent_id
        for fence, task in before.unaccepted():
            if fence in session.held or task.terminal:
                continue
            link, at = self._sent.get(fence, (None, 0.0))
            due = at + self.world.rules.accept_timeout_ms / 1000
            if link is not session.stream or now < due - 0.001:
                raise Violation(f"{name} counts as deaf {due - now:.3f} s before its time to accept was over")

    def swept(self, daemon: Daemon, now: Now) -> None:
        """Nobody may be kept for longer than the bounds of P4."""
        rules = self.world.rules
        self._sweeps.append(now.mono)
        self._most = max(self._most, len(self._seen))
        for session, seen in self._seen.items():
            if seen.broken is None and not seen.restored and now.mono - seen.alive < LATELY_S:
                # Too lately for all bounds but one.
                if now.mono - seen.alive < 0.2:
                    self._check_offered(session)
                continue
            name = session.agent.spec.agent_id
            frozen = self._frozen_since(seen.alive, 0.0)
            ttl = self.pace.longest_s(session)
            # The mesh may have suspected itself, but not one of few sessions.
            many = self._most >= self.world.plan.settings.bounds.mass_expiry
            # Twice, when others spoke and fell silent again meanwhile.
            spare = 2 * self.pace.fleet_s()
            start = max(seen.alive, self._hold_until - ttl) if seen.restored else seen.alive
            end = start + ttl
            if seen.broken is not None and not session.agent.spec.lease_ttl_ms:
                end = min(end, max(seen.broken + seen.return_s, seen.hold_until))
            if now.mono > end + 1.5 + frozen and not (
                many and self._doubts(end - spare / 2, end + frozen + 0.5)
            ):
                spare = 0.0
            if now.mono > end + 1.5 + spare + frozen:
                raise Violation(
                    f"P4: {name} is kept {now.mono - seen.alive:.1f} s after its last sign of life"
                )
            if session.bucket >= 0 and now.mono - seen.alive > 2 * self.pace.beat_s(session) + 0.6 + frozen:
                raise Violation(f"{name} is offered work though it is silent")
            lost_after = rules.lost_after_ms / 1000
            if (
                seen.broken is not None
                and now.mono - seen.broken > lost_after + 0.3 + frozen
                and session.stream is None
                and now.mono - lost_after > self._hold_until
                and seen.broken > self._hold_until
                and seen.broken + lost_after > daemon.fleet.brake_until_mono
                and self._together(seen.broken) <= self.world.plan.settings.bounds.mass_break
                and not self._frozen_since(seen.broken - self._usual_ttl(session) - 1.0, 0.0)
            ):
                raise Violation(
                    f"P4: {name} is kept {now.mono - seen.broken:.1f} s after its connection ended"
                )
            if now.mono - seen.alive < 0.2:
                self._check_offered(session)
        self._check_accepts(daemon, now)

    @staticmethod
    def _check_offered(session: Session) -> None:
        """Somebody who has just spoken gets work if it takes any."""
        ready = session.stream is not None and session.takes_work and session.slots > 0
        if ready and not session.drained and not session.deaf and session.bucket < 0:
            raise Violation(f"{session.agent.spec.agent_id} has just spoken and is offered no work")

    def _together(self, broken: float) -> int:
        """Return of how many agents connections may count as broken together with one."""
        return len({agent for agent, at in self._maybe_breaks if abs(at - broken) <= 1.0})

    def _check_accepts(self, daemon: Daemon, now: Now) -> None:
        late = self.world.rules.accept_timeout_ms / 1000 + 0.3
        for session in daemon.sessions():
            if session.stream is None or f.Feature.ACCEPT not in session.features:
                continue
            for fence, task in session.held.items():
                link, at = self._sent.get(fence, (None, 0.0))
                # What is let out right after a pause, before the pause is noticed, gets its time as well.
                frozen = self._frozen_since(at - 0.3, 0.0)
                if (
                    link is session.stream
                    and task.attempt_state is AttemptState.ASSIGNED
                    and now.mono - at > late + frozen
                ):
                    raise Violation(
                        f"{task.spec.task_id} was not accepted and is still {session.agent.spec.agent_id}'s"
                    )
