"""The oracle's account of leases: what every agent was told, by what it may go, and whether the pace fits the fleet.

An agent goes by what it was told last from the moment it hears that, which the mesh learns from its next beat; until
then it may go by what it was told before, so its lease must be the longer of the two, and it may be told nothing else: what
it says of the one could be taken for the other.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.pacing import SLACK, Lease
from meshd.domain.state import Namespace
from meshd.domain.values import Session
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.world import World


class Told:
    """What one session's agent was told."""

    __slots__ = ("acked", "last", "may_go_by", "may_keep")

    def __init__(self, lease: Lease, acked: float) -> None:
        self.last = lease
        self.may_go_by = [lease]
        self.may_keep = [lease]
        """The same, and what the mesh need not have forgotten yet."""
        self.acked = acked
        """When it was last told that its lease is extended."""


class Pace:
    """Leases in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._told: dict[Session, Told] = {}
        self._sends = 0
        self._counted = 0
        self._most = 0

    def started(self, daemon: Daemon) -> None:
        """A life of the daemon begins: the fleet is what was restored, each by its own lease."""
        self._most = self._counted = len(daemon.sessions())
        self._told = {s: Told(s.lease, -inf) for s in daemon.sessions()}

    def counted(self, sessions: int) -> None:
        """Note how many sessions a sweep found: the fleet is paced for them."""
        self._counted = sessions
        self._most = max(self._most, sessions)

    def before(self, out: Effects) -> None:
        """Note what was said before a turn."""
        self._sends = len(out.sends)

    def after(self, ns: Namespace, batch: list[c.Command], out: Effects, mono: float) -> None:
        """Note what a turn told, and judge it."""
        new = {stream: frame.lease for stream, frame in out.urgent if type(frame) is f.LeaseAck}
        spoken: set[Session] = set()
        for command in batch:
            if isinstance(command, c.Frames) and command.session.stream is command.stream:
                spoken.add(command.session)
                self._heard(command, changes=new.get(command.stream) is not None)
            elif isinstance(command, c.Register):
                session = ns.agents[command.spec.agent_id].session
                if session is not None and session not in self._told:
                    self._tell(session, session.told, -inf)
        for stream, frame in out.sends[self._sends :]:
            if type(frame) is f.Opened:
                for session in ns.sessions.values():
                    if session.stream is stream:
                        self._tell(session, frame.lease, self._told[session].acked)
        for session in spoken:
            if session.session_id in ns.sessions and f.Feature.LEASE_ACK in session.features:
                self._check_told(session, session.stream in new, new.get(session.stream), mono)

    def _tell(self, session: Session, lease: Lease, acked: float) -> None:
        self._judge(session, lease)
        self._told[session] = Told(lease, acked)

    def _heard(self, command: c.Frames, *, changes: bool) -> None:
        told = self._told.get(command.session)
        if told is not None and any(
            type(frame) is f.Beat and frame.ttl_ms == told.last.ttl_ms for frame in command.frames
        ):
            told.may_go_by = [told.last]
            if not changes:
                told.may_keep = [told.last]

    def _check_told(self, session: Session, acked: bool, news: Lease | None, mono: float) -> None:
        """Whoever speaks learns often enough that it counts, and at once that its lease changes, one change at a time."""
        told = self._told[session]
        if acked:
            told.acked = mono
        confirmed = len(told.may_go_by) == 1
        if news is not None:
            if not confirmed:
                name = session.agent.spec.agent_id
                raise Violation(f"{name} is told {news} before it goes by one of {told.may_go_by}")
            told.last = news
            told.may_go_by.append(news)
            told.may_keep.append(news)
        if confirmed:
            self._judge(session, told.last)
        if not self.ttl_s(session) <= session.lease.ttl_ms / 1000 <= self.longest_s(session):
            raise Violation(
                f"{session.agent.spec.agent_id} goes by {told.may_go_by}, judged by {session.lease}"
            )
        if mono - told.acked > told.last.ttl_ms / 3000:
            name = session.agent.spec.agent_id
            raise Violation(f"{name} beats and is not told for a third of its TTL that it counts")

    def _judge(self, session: Session, lease: Lease) -> None:
        """A lease that an agent is told, or left with when it speaks, fits the fleet."""
        rules = self.world.rules
        least = self._least_ms(self._counted)
        own_ms = session.agent.spec.lease_ttl_ms
        most = SLACK * least
        ttl_ms = own_ms or lease.beat_interval_ms * rules.lease_ttl_ms // rules.beat_interval_ms
        if own_ms:
            least, most = min(least, own_ms // 3), min(most, own_ms // 3)
        if lease.ttl_ms != ttl_ms or not least <= lease.beat_interval_ms <= most:
            name = session.agent.spec.agent_id
            raise Violation(f"{name} is to go by {lease}, of a fleet of {self._counted}")

    def _least_ms(self, sessions: int) -> int:
        """Return the interval of beats at which a fleet of so many costs what it may cost."""
        return max(
            self.world.rules.beat_interval_ms, self.world.plan.settings.bounds.ms_per_session * sessions
        )

    def told_operators(self, daemon: Daemon) -> None:
        """The bound on hung agents that `meshctl status` shows is that of the slowest without a lease of its own."""
        followers = [s for s in daemon.sessions() if not s.agent.spec.lease_ttl_ms and s in self._told]
        told_s = daemon.fleet.longest_ttl_ms(daemon.sessions()) / 1000
        least_s = max((self.ttl_s(session) for session in followers), default=0.0)
        most_s = max([self.fleet_s(), *(self.longest_s(session) for session in followers)])
        if not least_s <= told_s <= most_s:
            raise Violation(f"hung agents are said to be found after {told_s} s, not {least_s} to {most_s}")

    # ---- what others ask

    def ttl_s(self, session: Session) -> float:
        """Return the silence that a session's agent may take for allowed."""
        return _longest_ttl_s(self._told[session].may_go_by)

    def longest_s(self, session: Session) -> float:
        """Return the silence after which the mesh must give a session up."""
        return _longest_ttl_s(self._told[session].may_keep)

    def beat_s(self, session: Session) -> float:
        """Return the longest interval at which a session's agent may beat."""
        return max(lease.beat_interval_ms for lease in self._told[session].may_keep) / 1000

    def fleet_s(self) -> float:
        """Return the longest TTL that this life of the daemon can have given to the fleet."""
        rules = self.world.rules
        stretch = self._least_ms(self._most) / rules.beat_interval_ms
        return (SLACK * stretch if stretch > 1 else 1.0) * rules.lease_ttl_ms / 1000

    def return_s(self) -> float:
        """Return how long a fleet of the present size takes to come back."""
        rules = self.world.rules
        return max(rules.lease_ttl_ms, rules.hold_per_session_ms * self._counted) / 1000


def _longest_ttl_s(leases: list[Lease]) -> float:
    longest_ms = 0
    for lease in leases:
        longest_ms = max(longest_ms, lease.ttl_ms)
    return longest_ms / 1000
