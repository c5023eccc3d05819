"""Frames of a session, as the domain sees them. The codec makes them of the contract's frames and back.

Rule: immutable, cheap, no payload: an Assign names its task by key, and the engine adds the input when it is sent.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from meshd.domain.pacing import Lease


class Feature(IntEnum):
    """Optional parts of the protocol."""

    ACCEPT = 1
    LEASE_ACK = 2
    CANCEL = 3
    GO_AWAY = 4
    REAUTHENTICATE = 5
    DRAIN = 6


class HeldPhase(IntEnum):
    """What an agent is doing with an attempt it holds."""

    RUNNING = 1
    RESULT_PENDING = 2
    STOPPING = 3


class GoAwayReason(IntEnum):
    """Why a stream ends."""

    SUPERSEDED = 1
    SHUTTING_DOWN = 2
    SESSION_LOST = 3


class CancelReason(IntEnum):
    """Why an attempt must stop."""

    REQUESTED = 1
    DEADLINE = 2
    HAND_OVER = 3


# ---- up: from agent to mesh


class Beat(NamedTuple):
    """Sign of life."""

    seq: int
    ttl_ms: int = 0
    """The TTL by which the agent goes from now on; 0: as before."""


class Slots(NamedTuple):
    """New number of slots."""

    slots: int


class Accept(NamedTuple):
    """The attempt was taken."""

    fence: bytes


class Decline(NamedTuple):
    """The attempt was not taken."""

    fence: bytes
    reason: str
    retry_in_ms: int


class Progress(NamedTuple):
    """How far the attempt is."""

    fence: bytes
    seq: int
    fraction: float | None
    message: str


class Output(NamedTuple):
    """A piece of output."""

    fence: bytes
    seq: int
    chunk: bytes


class Done(NamedTuple):
    """The attempt succeeded; ``output`` is the encoded Payload."""

    fence: bytes
    output: bytes


class Fail(NamedTuple):
    """The attempt failed."""

    fence: bytes
    type: str
    message: str
    retryable: bool


class Stopped(NamedTuple):
    """The attempt was stopped."""

    fence: bytes


class Bye(NamedTuple):
    """The agent leaves in good order."""

    reason: str


UpFrame = Beat | Slots | Accept | Decline | Progress | Output | Done | Fail | Stopped | Bye


# ---- down: from mesh to agent


class Opened(NamedTuple):
    """Answers Open."""

    features: frozenset[int]
    epoch: int
    keep: tuple[bytes, ...]
    drop: tuple[bytes, ...]
    lease: Lease
    disconnected_grace_ms: int


class Assign(NamedTuple):
    """An attempt for this agent."""

    fence: bytes
    fence_number: int
    task_key: int
    task_id: str
    task_type: str
    attempt: int
    payload_bytes: int
    deadline_ms: int
    traceparent: str
    context_id: str


class Cancel(NamedTuple):
    """Stop an attempt."""

    fence: bytes
    reason: CancelReason
    grace_ms: int


class Revoke(NamedTuple):
    """An attempt is no longer this agent's."""

    fence: bytes


class Ack(NamedTuple):
    """A report is durable."""

    fence: bytes


class LeaseAck(NamedTuple):
    """The lease is extended."""

    beat_seq: int
    lease: Lease | None = None
    """The lease by which the agent is to go from now on; None: as before."""


class Drain(NamedTuple):
    """The agent is drained: it gets nothing new."""

    reason: str


class GoAway(NamedTuple):
    """This stream ends."""

    reason: GoAwayReason


class Reauthenticate(NamedTuple):
    """The token of the stream runs out soon."""

    by_ms: int
    """Wall time at which the stream ends without a fresh one."""


DownFrame = Opened | Assign | Cancel | Revoke | Ack | LeaseAck | Drain | GoAway | Reauthenticate
