"""How often agents prove that they live, and the lease that goes with it.

Rules: the beats of all agents cost at most 15 % of a core. Up to 500 sessions the settings hold as they are; beyond, the beat
interval grows with the fleet, and the TTL in proportion to it. It grows and shrinks in steps, so that a few agents coming and
going change nothing. Pings, whose pace gRPC fixes when the daemon starts, follow the fleet that it remembers then.
"""

from __future__ import annotations

from typing import NamedTuple

from meshd.domain.limits import SessionRules

MS_PER_SESSION = 2
"""Agents take 0.8 to 1.0 of the interval: with 2 ms of it for each, 250 µs a beat make 14 % of a core."""
SESSIONS_PER_PING_MS = 2
"""With half a millisecond of its pace for each session, 70 µs a ping make 14 % of a core."""
HEADROOM = 1.1
"""A fleet that grows is paced for so much more than it is."""
SLACK = 1.5
"""It is paced faster again when it needs so much less than it has."""


class Lease(NamedTuple):
    """The pace of an agent's beats and the silence after which it is lost."""

    beat_interval_ms: int
    ttl_ms: int


UNTOLD = Lease(0, 0)
"""Of a session whose agent has not been told anything."""


def paced(rules: SessionRules, sessions: int, present: Lease) -> Lease:
    """Return the lease for a fleet of so many sessions whose lease has been ``present``."""
    least_ms = max(rules.beat_interval_ms, MS_PER_SESSION * sessions)
    if least_ms <= present.beat_interval_ms <= SLACK * least_ms:
        return present
    interval_ms = least_ms if least_ms == rules.beat_interval_ms else round(HEADROOM * least_ms)
    return Lease(interval_ms, interval_ms * rules.lease_ttl_ms // rules.beat_interval_ms)


def ping_interval_ms(setting_ms: int, sessions: int) -> int:
    """Return the pace of HTTP/2 pings of each connection for a fleet of so many sessions."""
    return max(setting_ms, sessions // SESSIONS_PER_PING_MS)


def own_lease(fleet: Lease, own_ttl_ms: int) -> Lease:
    """Return the lease of an agent that may have asked for a TTL of its own (0: it did not)."""
    if not own_ttl_ms:
        return fleet
    return Lease(min(fleet.beat_interval_ms, own_ttl_ms // 3), own_ttl_ms)


def longer(one: Lease, other: Lease) -> Lease:
    """Return the lease that is safe while it is open by which of two an agent goes."""
    return Lease(*map(max, one, other))
