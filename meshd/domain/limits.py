"""Limits in force: the numbers of the session rules and the bounds on what callers send."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MAX_MESSAGE_BYTES = 1024 * KIB
MAX_INLINE_BYTES = 256 * KIB
MAX_PAYLOAD_BYTES = MAX_INLINE_BYTES + 16 * KIB
"""A payload with its media type, its metadata and what later versions add to it."""
MAX_MEDIA_TYPE_BYTES = 255
MAX_METADATA_ENTRIES = 16
MAX_METADATA_TEXT_BYTES = 256
MAX_MESSAGE_FRAMES = 5_000
"""Frames in one message of a stream: all of them are handled in one go, while everybody else waits."""
MAX_BATCH_ITEMS = 5_000
MAX_SLOTS = 10_000
MAX_CAPABILITIES = 64
MAX_LABELS = 64
MAX_TASK_LABELS = 32
MAX_OUTPUT_CHUNK_BYTES = 64 * KIB
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100
DEFAULT_GRACE_MS = 10_000
MAX_GRACE_MS = 600_000
MAX_DRAINS = 100
"""Drains in force in one namespace: each session is compared with all of them when it begins."""
MAX_DURATION_MS = 366 * 24 * 3_600_000
"""Longest timeout of a task: a year."""

CHUNK_DRAWS = 25
"""Draws for which a chosen agent is kept while the queue is deep; single draws over 100 streams cost 4-5x."""

SEARCHED_AT_ONCE = 500
"""Agents among which a list looks for more of its page."""

COUNTED_AT_ONCE = 10_000
"""Tasks that came back to a queue which are counted in one go."""

FEW_ENTRIES = 100
"""So many entries of a queue, or timers, may be of tasks that are over; beyond, each end sweeps some."""

SWEPT_AT_ONCE = 8
"""Entries at which a sweep looks in one go."""

KEPT_AT_ONCE = 4
"""Entries still needed after which it stops: more than a task has timers, so that sweeping keeps up with the ends."""

PREFERENCE_SAMPLE = 64
"""Candidates looked at for a task with preferences."""

RECENT_TASKS = 10_000
"""Ended tasks kept in memory for readers, and to recognise repeated submits before the store can."""

MAX_IDLE_POOLS = 1_024
"""Requirement sets that are kept pooled though no task of them is queued."""

MAX_DEAF_PAUSE_S = 60.0
"""Longest pause of an agent that beats but answers no assignment, before it is tried again."""

BREAK_WINDOW_S = 1.0
MASS_BREAK_MIN = 10
MASS_BREAK_SHARE = 0.05
"""More breaks than max(10, 5 % of sessions) within the window are a proxy's reload, not deaths."""

MASS_EXPIRY_MIN_SESSIONS = 10
"""From so many sessions on, the expiry of more than half within one TTL makes the mesh suspect itself."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """The session rules' numbers, from the settings."""

    beat_interval_ms: int = 1_000
    lease_ttl_ms: int = 3_500
    accept_timeout_ms: int = 1_000
    lost_after_ms: int = 750
    """From the end of the last connection without Bye until the session is lost."""
    hold_min_ms: int = 10_000
    hold_per_session_ms: int = 2
    disconnected_grace_ms: int = 600_000
    max_reconnect_backoff_ms: int = 1_000
