"""When a session counts as lost. One Fleet serves all namespaces: a reload of a proxy or a stall hits them together.

Rules (design, "The agent's session" 7 to 9):
- any frame proves the lease; it ends TTL after the last one; the TTL follows the size of the fleet (``pacing``), but an
  agent's is never shorter than the one by which the agent knows to go;
- the end of a session's connection without Bye costs the session after ``lost_after``, unless the connections of more
  agents than max(10, 5 %) of all sessions broke, for the last time, within 1 s of it: then, and for restored sessions, only the TTL decides, though of a
  broken session not more of it than a fleet of this size takes to return;
- the hold after a restart goes on while restored sessions still come back, up to twice its length: then it is the mesh, or
  its machine, that is slow;
- a stall of the daemon extends every lease by its length, and connections that turn out broken within a TTL after it
  are judged by TTL alone (the other sides saw a dead daemon and hung up);
- when more than half of at least 10 sessions expire by TTL within one TTL, the mesh suspects itself and waits one more;
  the connections that end meanwhile cost nothing by themselves. Whoever speaks and falls silent again meanwhile has not had
  that second TTL, and is counted anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final

from meshd.domain.limits import (
    BREAK_WINDOW_S,
    MASS_BREAK_MIN,
    MASS_BREAK_SHARE,
    MASS_EXPIRY_MIN_SESSIONS,
    SessionRules,
)
from meshd.domain.pacing import Lease, own_lease, paced
from meshd.domain.values import Agent, AgentSpec, Session

RETURN_GAP_S: Final = 1.0
"""While restored sessions come back with less than this between them the hold goes on, up to twice its length."""
STALL_MIN_S: Final = 0.25
"""A pause of the daemon shorter than this is ordinary scheduling."""


def pause_s(last_turn_mono: float, now_mono: float, sweep_interval_s: float) -> float:
    """Return how long the daemon itself stood still between two turns, 0 when that is ordinary scheduling."""
    # A sweep is due that often, so a turn comes at least then.
    seconds = now_mono - last_turn_mono - sweep_interval_s
    return seconds if seconds > STALL_MIN_S else 0.0


def silent(sessions: Iterable[Session], now_mono: float) -> list[Session]:
    """Return those of the sessions that missed two beats or their whole lease: only they can be late, or over."""
    return [
        s
        for s in sessions
        if now_mono - s.last_seen_mono > min(2 * s.lease.beat_interval_ms, s.lease.ttl_ms) / 1000
    ]


def _over(session: Session, mono: float) -> bool:
    return mono - session.last_seen_mono > session.lease.ttl_ms / 1000


class Fleet:
    """What is known about all sessions together."""

    def __init__(self, rules: SessionRules) -> None:
        self.rules = rules
        self.lease = Lease(rules.beat_interval_ms, rules.lease_ttl_ms)
        """Of agents without settings of their own that are told one now."""
        self.hold_until_mono = 0.0
        self._hold_s = 0.0
        self._hold_latest_mono = 0.0
        self._awaited: set[Session] = set()
        """Restored sessions that have not come back; the hold is theirs."""
        self._sessions = 0
        """How many there were at the last sweep."""
        self._breaks: deque[float] = deque()
        """When agents' connections broke, the last time of each, in order: one that flaps is no mass break."""
        self._breaks_of: dict[Agent, float] = {}
        """The same times in the same order, by agent."""
        self._stall_end_mono = float("-inf")
        self._expiries: deque[float] = deque()
        self._brake_mono = float("-inf")
        """When the mesh last began to suspect itself."""
        self.brake_until_mono = 0.0
        """Until then the mesh suspects itself, and no lease ends."""

    def start_hold(self, restored: int, now_mono: float) -> None:
        """Begin the hold after a start with so many restored sessions."""
        if restored:
            hold_ms = max(self.rules.hold_min_ms, self.rules.hold_per_session_ms * restored)
            self._hold_s = hold_ms / 1000
            self._hold_from(now_mono)
            self._pace(restored)

    def restart_hold(self, sessions: Iterable[Session], now_mono: float) -> None:
        """Begin the hold anew, before any of the sessions could return."""
        self._hold_from(now_mono)
        for session in sessions:
            self.restored(session)

    def _hold_from(self, now_mono: float) -> None:
        self.hold_until_mono = now_mono + self._hold_s
        self._hold_latest_mono = now_mono + 2 * self._hold_s

    def restored(self, session: Session) -> None:
        """Let a restored session's lease end with the hold."""
        self._awaited.add(session)
        session.ttl_only = True
        session.lease = self.lease_of(session.agent.spec)
        session.last_seen_mono = self.hold_until_mono - session.lease.ttl_ms / 1000

    def lease_of(self, spec: AgentSpec) -> Lease:
        """Return the lease by which an agent is to go from now on."""
        return own_lease(self.lease, spec.lease_ttl_ms)

    def longest_ttl_ms(self, sessions: Iterable[Session]) -> int:
        """Return the longest TTL by which a session may still go that has none of its own."""
        followers = (s.lease.ttl_ms for s in sessions if not s.agent.spec.lease_ttl_ms)
        return max(self.lease.ttl_ms, max(followers, default=0))

    def opened(self, session: Session, now_mono: float) -> None:
        """Note that a session's stream opened."""
        if session in self._awaited:
            self._awaited.remove(session)
            if now_mono < self.hold_until_mono:
                until_mono = min(now_mono + RETURN_GAP_S, self._hold_latest_mono)
                self.hold_until_mono = max(self.hold_until_mono, until_mono)

    def broke(self, session: Session, now_mono: float) -> None:
        """Note that a session's connection ended without Bye."""
        session.broken_mono = now_mono
        own_ttl_ms = session.agent.spec.lease_ttl_ms
        session.ttl_only = now_mono < self._stall_end_mono + (own_ttl_ms or self.rules.lease_ttl_ms) / 1000
        if not own_ttl_ms:
            # Stretched for slow beats, a lease says nothing about coming back: that agents try every second.
            return_ms = max(self.rules.lease_ttl_ms, self.rules.hold_per_session_ms * self._sessions)
            end_mono = max(now_mono + return_ms / 1000, self.hold_until_mono)
            session.last_seen_mono = min(session.last_seen_mono, end_mono - session.lease.ttl_ms / 1000)
        before_mono = self._breaks_of.pop(session.agent, None)
        if before_mono is not None:
            del self._breaks[bisect_left(self._breaks, before_mono)]
        self._breaks.append(now_mono)
        self._breaks_of[session.agent] = now_mono
        # Whoever is still asked about broke so lately, and what broke together with it.
        oldest_mono = now_mono - self.rules.lost_after_ms / 1000 - 2 * BREAK_WINDOW_S
        while self._breaks[0] < oldest_mono:
            self._breaks.popleft()
            del self._breaks_of[next(iter(self._breaks_of))]

    def broken_for_good(self, session: Session, now_mono: float) -> bool:
        """Return whether a session whose connection ended ``lost_after`` ago is lost by that alone."""
        # While the mesh suspects itself, agents that heard nothing from it hang up: that is no sign of their death.
        if session.ttl_only or now_mono < max(self.hold_until_mono, self.brake_until_mono):
            return False
        # Not in a copy: after the reload of a proxy each of all sessions is asked about.
        low = bisect_left(self._breaks, session.broken_mono - BREAK_WINDOW_S)
        high = bisect_right(self._breaks, session.broken_mono + BREAK_WINDOW_S)
        if high - low > max(MASS_BREAK_MIN, MASS_BREAK_SHARE * self._sessions):
            session.ttl_only = True
            return False
        return True

    def stalled(self, seconds: float, sessions: Iterable[Session], now_mono: float) -> None:
        """Extend every lease by a pause of the daemon itself."""
        self._stall_end_mono = now_mono
        for session in sessions:
            session.last_seen_mono += seconds
            # Of one that is connected the end of its connection decides anew.
            session.ttl_only = True

    def expired(self, sessions: Iterable[Session], total: int, now_mono: float) -> list[Session]:
        """Return the sessions whose lease is over, or none while the mesh suspects itself; pace those to come."""
        self._pace(total)
        if now_mono >= self.hold_until_mono:
            self._awaited.clear()
        if now_mono < self.brake_until_mono:
            return []
        over = [s for s in sessions if _over(s, now_mono) and s not in self._awaited]
        window_s = self.lease.ttl_ms / 1000
        while self._expiries and self._expiries[0] < now_mono - window_s:
            self._expiries.popleft()
        # No sign of a stall is who has had a second chance: the hold, or the TTL for which the mesh suspected itself.
        had = [s for s in over if _over(s, self._brake_mono) or (not s.broken_mono and s.stream is None)]
        fresh = len(over) - len(had)
        many = fresh + len(self._expiries)
        # Of all that were there within the TTL, those lost since included.
        if total >= MASS_EXPIRY_MIN_SESSIONS and 2 * many > total + len(self._expiries):
            self._brake_mono, self.brake_until_mono = now_mono, now_mono + window_s
            return had
        self._expiries.extend([now_mono] * fresh)
        return over

    def _pace(self, sessions: int) -> None:
        self._sessions = sessions
        self.lease = paced(self.rules, sessions, self.lease)
