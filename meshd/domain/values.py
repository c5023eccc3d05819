"""Values of the domain: agents, sessions, tasks and what tasks ask for.

Rule: plain data, no rules. The numbers of the enums are those of the contract, so that the codec is a cast. Times
ending in ``_ms`` are wall-clock milliseconds since 1970 (they survive restarts); times ending in ``_mono`` are seconds
of the monotonic clock (they decide). Objects made once per task are slotted and mutable: they are hot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from meshd.domain.pacing import UNTOLD, Lease


class Now(NamedTuple):
    """The time, handed to the domain with every batch: it never asks a clock."""

    mono: float
    """Seconds of the monotonic clock."""
    wall_ms: int
    """Milliseconds since 1970, for records."""


class TaskState(IntEnum):
    """States of a task; from SUCCEEDED on they are terminal."""

    WAITING = 1
    QUEUED = 2
    ASSIGNED = 3
    RUNNING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    EXPIRED = 8


FIRST_TERMINAL: Final = TaskState.SUCCEEDED


class AttemptState(IntEnum):
    """States of an attempt; from SUCCEEDED on they are terminal."""

    ASSIGNED = 1
    RUNNING = 2
    STOPPING = 3
    SUCCEEDED = 4
    FAILED = 5
    LOST = 6
    CANCELLED = 7
    RETURNED = 8


class OutcomeReason(IntEnum):
    """Why a task ended; NONE while it has not."""

    NONE = 0
    COMPLETED = 1
    RETRIES_EXHAUSTED = 2
    NOT_RETRYABLE = 3
    POISON = 4
    CANCEL_REQUESTED = 5
    TIMEOUT = 6
    QUEUE_TIMEOUT = 7
    EXECUTION_TIMEOUT = 8


class Strategy(IntEnum):
    """How an agent is chosen among those that fit."""

    LEAST_LOADED = 1
    ROUND_ROBIN = 2


class AgentType(IntEnum):
    """Role of an agent."""

    ORCHESTRATOR = 1
    WORKER = 2
    MONITOR = 3
    INTEGRATOR = 4
    GOVERNOR = 5
    CRITIC = 6


class Health(IntEnum):
    """How an agent is."""

    DECLARED = 1
    HEALTHY = 2
    SUSPECT = 3
    DEAF = 4
    LOST = 5
    DRAINING = 6


class LabelOperator(IntEnum):
    """How a label is compared."""

    IN = 1
    NOT_IN = 2
    EXISTS = 3
    NOT_EXISTS = 4
    GREATER_THAN = 5
    LESS_THAN = 6


class LabelCondition(NamedTuple):
    """One condition on one label."""

    label: str
    operator: LabelOperator
    values: tuple[str, ...]


class Requirements(NamedTuple):
    """What a task asks of its agent. Hashable: agents are pooled by it."""

    capabilities: frozenset[str]
    labels: tuple[LabelCondition, ...] = ()
    preferred_capabilities: frozenset[str] = frozenset()
    preferred_labels: tuple[LabelCondition, ...] = ()


@lru_cache(1_024)
def requirements_for(task_type: str) -> Requirements:
    """Return the requirements of a task that names none: the capability called like its type. Shared by tasks."""
    return Requirements(frozenset((task_type,)))


class RetryPolicy(NamedTuple):
    """How failed attempts are tried again."""

    max_retries: int = 3
    initial_backoff_ms: int = 1_000
    multiplier: float = 2.0
    max_backoff_ms: int = 60_000


DEFAULT_RETRY = RetryPolicy()
DEFAULT_PRIORITY = 5
DEFAULT_MAX_LOSSES = 5


class Failure(NamedTuple):
    """What an attempt reported."""

    type: str
    message: str
    retryable: bool


@dataclass(slots=True, eq=False)
class TaskSpec:
    """What a caller asks for, validated. ``payload`` is the encoded Payload message, opaque here."""

    task_id: str
    task_type: str
    payload: bytes
    digest: bytes
    """16 bytes over the normalised content (docs/concepts.md); equal digests are the same task."""
    requirements: Requirements
    priority: int = DEFAULT_PRIORITY
    strategy: Strategy = Strategy.LEAST_LOADED
    timeout_ms: int = 0
    queue_timeout_ms: int = 0
    execution_timeout_ms: int = 0
    retry: RetryPolicy = DEFAULT_RETRY
    max_losses: int = DEFAULT_MAX_LOSSES
    labels: dict[str, str] | None = None
    context_id: str = ""
    parent_task_id: str = ""
    traceparent: str = ""
    default_requirements: bool = True
    """True when the caller named none: requirements are the capability called like the type."""


@dataclass(slots=True, eq=False)
class Task:
    """A task and its attempt that counts. One row of the table ``tasks`` is made of exactly these fields."""

    key: int
    """Position in the order of arrival, unique in the mesh, and its primary key."""
    namespace: str
    spec: TaskSpec
    """Its payload is dropped (b"") when the task comes from the store or has been sent away."""
    incarnation: int
    """Random unsigned 64 bits: a reused id must not accept an old report."""
    state: TaskState
    submit_ms: int
    submitter: str
    payload_bytes: int
    deadline_ms: int = 0
    """Wall time at which it expires; 0: never."""
    queue_deadline_ms: int = 0
    generation: int = 1
    outcome: OutcomeReason = OutcomeReason.NONE
    end_ms: int = 0
    failures: int = 0
    losses: int = 0
    cancel_ms: int = 0
    cancel_grace_ms: int = 0
    cancel_cause: OutcomeReason = OutcomeReason.NONE
    """CANCEL_REQUESTED, TIMEOUT or EXECUTION_TIMEOUT while the attempt is being stopped for it; NONE while it is
    being stopped to hand the task over to another agent."""
    next_attempt_ms: int = 0
    failure: Failure | None = None
    # The attempt that counts, or the last one; number 0 before the first.
    attempt: int = 0
    attempt_state: AttemptState = AttemptState.RETURNED
    agent_id: str = ""
    session_id: str = ""
    fence_number: int = 0
    assign_ms: int = 0
    accept_ms: int = 0
    """Wall time of Accept; 0 before. Not durable: after a restart the agent's ``held`` tells."""
    # Not durable.
    taken: bool = False
    """An agent has taken it: its time in the queue counts no more, though that attempt may have ended since."""
    fence: bytes = b""
    progress: tuple[int, int, float | None, str] | None = None
    """(attempt, seq, fraction, message)."""
    declined: dict[str, float] | None = None
    """agent_id -> monotonic time before which it is not asked again."""

    @property
    def terminal(self) -> bool:
        """True when the task has ended for good."""
        return self.state >= FIRST_TERMINAL

    def __copy__(self) -> Task:
        """Return a copy that shares the spec; made without the detours of the copy protocol."""
        return Task(*_task_values(self))


_task_values = attrgetter(*(each.name for each in fields(Task)))


class EndedAttempt(NamedTuple):
    """An attempt that ended without success: one row of the table ``attempts``."""

    task_key: int
    number: int
    agent_id: str
    state: AttemptState
    fence_number: int
    assign_ms: int
    end_ms: int
    failure: Failure | None


@dataclass(slots=True)
class AgentSpec:
    """What an agent says about itself, or an operator declared."""

    agent_id: str
    type: AgentType
    name: str = ""
    capabilities: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    host: str = ""
    port: int = 0
    dns_name: str = ""
    slots: int = 0
    lease_ttl_ms: int = 0
    """0: the daemon's value."""
    disconnected_grace_ms: int = 0


@dataclass(slots=True, eq=False)
class Agent:
    """An agent. One row of the table ``agents`` is made of these fields and its session's."""

    namespace: str
    spec: AgentSpec
    create_ms: int
    health: Health
    health_ms: int
    health_cause: str
    session: Session | None = None
    revision: int = 1
    last_seen_ms: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """One life of an agent process."""

    session_id: str
    agent: Agent
    resume_hash: bytes
    """SHA-256 of the resume token."""
    key_hash: bytes
    """SHA-256 of the key by which the process may repeat its registration."""
    slots: int
    start_ms: int
    held: dict[bytes, Task] = field(default_factory=dict)
    """Attempts the mesh holds for this session, by fence."""
    quarantine: set[bytes] = field(default_factory=set)
    """Fences that are void but whose handler may still run; each takes a slot."""
    lease: Lease = UNTOLD
    """In force: never less than the agent goes by."""
    told: Lease = UNTOLD
    """What the agent was told last; in force once it says that it goes by it, or at once what is longer."""
    unconfirmed: bool = False
    """It has not said so yet. Nothing else is told until it does, or its words could mean what it was told before."""
    stream: object | None = None
    """The one liveness stream; an opaque handle of the engine."""
    stream_seq: int = 0
    takes_work: bool = False
    """The stream is a Work stream."""
    features: frozenset[int] = frozenset()
    last_seen_mono: float = 0.0
    broken_mono: float = 0.0
    """When the last stream broke without Bye; 0 while connected."""
    ttl_only: bool = False
    """It broke together with many others, or was restored: only its TTL decides."""
    drained: str = ""
    """Why a drain keeps new work from it, in words; "" while none does. Not durable: drains are."""
    deaf: bool = False
    """It left an assignment unanswered, and gets no more until it speaks."""
    deaf_count: int = 0
    """How often in a row, without one assignment answered between."""
    deaf_until_mono: float = 0.0
    """Before this, what it says does not show that it hears again."""
    bucket: int = -1
    """Load bucket in which the placement pools keep it; -1: in none, because it gets no work."""
    beat_seq: int = 0
    lease_ack_mono: float = 0.0

    @property
    def free_slots(self) -> int:
        """Slots free for new work: derived, never counted."""
        return 0 if self.drained else max(0, self.slots - len(self.held) - len(self.quarantine))


class NamespaceInfo(NamedTuple):
    """A namespace as listed: one row of the table ``namespaces``."""

    name: str
    description: str
    create_ms: int
    epoch: int
