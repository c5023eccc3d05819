"""Commands: everything that can be asked of a namespace, in batches. ``ticket`` names whoever waits for the reply."""

from __future__ import annotations

from typing import NamedTuple

from meshd.domain.drains import Drain
from meshd.domain.effects import Stream, Ticket
from meshd.domain.errors import Refusal
from meshd.domain.frames import Assign, HeldPhase, UpFrame
from meshd.domain.values import Agent, AgentSpec, Session, Task, TaskSpec


class KnownTask(NamedTuple):
    """A durable task of the same id, as the store knows it."""

    key: int
    digest: bytes


class Submit(NamedTuple):
    """Take tasks. Reply: list[Submitted | Refusal], one per spec."""

    ticket: Ticket
    specs: list[TaskSpec]
    submitter: str
    known: dict[str, KnownTask]
    """What the store knew of these ids when ``ended_seen`` was read."""
    ended_seen: int
    copies: bool
    """True when the caller wants the task as it is now, not only its id."""


class Submitted(NamedTuple):
    """A task was taken, now or before."""

    task_id: str
    existed: bool
    task: Task | None
    """A copy, when asked for and in memory."""


class LookAgain(NamedTuple):
    """Reply to Submit: what the store knew may be out of date; look again and resubmit."""


class Cancel(NamedTuple):
    """Ask for the end of an open task. Reply: Task (a copy) | Refusal."""

    ticket: Ticket
    task_id: str
    grace_ms: int


class Register(NamedTuple):
    """Start a session. Reply: Registered."""

    ticket: Ticket
    spec: AgentSpec
    session_id: str
    """For the session, if it is a new one."""
    key_hash: bytes
    resume_hash: bytes


class Registered(NamedTuple):
    """The session that counts."""

    agent: Agent
    session: Session


class Declare(NamedTuple):
    """Make an agent known. Reply: Declared."""

    ticket: Ticket
    spec: AgentSpec


class Declared(NamedTuple):
    """The agent is known."""

    agent: Agent
    created: bool


class Deregister(NamedTuple):
    """End a session in good order. Reply: None | Refusal."""

    ticket: Ticket
    agent_id: str
    session_id: str


class RevokeAgent(NamedTuple):
    """An agent's identity was taken away: its session ends, its attempts go to others. Reply: None."""

    ticket: Ticket
    agent_id: str


class StartDrain(NamedTuple):
    """Put a drain in force, and hand over what its agents run if asked to. Reply: Drained | Refusal."""

    ticket: Ticket
    drain: Drain
    hand_over: bool
    grace_ms: int


class LiftDrain(NamedTuple):
    """Lift a drain. Reply: Drained."""

    ticket: Ticket
    drain_id: str


class Drained(NamedTuple):
    """The drain that was asked for; None when there was none to lift."""

    drain: Drain | None
    changed: bool


class Held(NamedTuple):
    """An attempt that an agent says it holds."""

    fence: bytes
    phase: HeldPhase


class OpenStream(NamedTuple):
    """Open a stream of a session. Reply: Session | Refusal; Opened goes to the stream."""

    ticket: Ticket
    stream: Stream
    agent_id: str
    session_id: str
    resume_hash: bytes
    stream_seq: int
    takes_work: bool
    features: frozenset[int]
    slots: int | None
    held: list[Held]


class Frames(NamedTuple):
    """Frames arrived on a stream. No reply."""

    session: Session
    stream: Stream
    frames: list[UpFrame]


class Unsendable(NamedTuple):
    """An assignment that no message on this stream can carry was not sent. No reply."""

    stream: Stream
    assign: Assign
    limit_bytes: int


class StreamEnded(NamedTuple):
    """A stream ended. No reply."""

    session: Session
    stream: Stream


Command = (
    Submit
    | Cancel
    | Register
    | Declare
    | Deregister
    | RevokeAgent
    | StartDrain
    | LiftDrain
    | OpenStream
    | Frames
    | Unsendable
    | StreamEnded
)
Reply = Submitted | LookAgain | Registered | Declared | Drained | Task | Session | Refusal | None
