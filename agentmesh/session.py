"""The agent's side of a session as a pure machine: frames in, frames out, no clock, no I/O, no threads.

What it guards:
- An attempt is held from its Assign until its report is acknowledged, or until the mesh says it is not ours any more
  (Revoke, or `drop` in Opened). Reports about attempts that are not held are discarded; only Stopped says that their
  handlers have ended, because until then the mesh counts their slots as taken.
- A report (Done, Fail, Stopped) is kept until its Ack and sent again on every new stream that keeps the attempt.
- Nothing but Open goes out before Opened, and what waited for a broken stream is made anew, not resent blindly:
  `held` implies Accept, reports come from the attempts; progress and output are volatile.
- Slots count handlers that run, also those whose attempt was taken away: a thread that goes on is not free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from agentmesh.connection import MAX_MESSAGE_BYTES
from agentmesh.v1.session_pb2 import (
    AgentFrame,
    Assign,
    Beat,
    Bye,
    CancelReason,
    Decline,
    Feature,
    FreshToken,
    GoAway,
    HeldAttempt,
    HeldPhase,
    LeaseAck,
    MeshFrame,
    Open,
    Opened,
    Output,
    Progress,
    SessionLimits,
    Slots,
    Stopped,
)

PROTOCOL: Final = 1
FEATURES: Final = (
    Feature.FEATURE_ACCEPT,
    Feature.FEATURE_LEASE_ACK,
    Feature.FEATURE_CANCEL,
    Feature.FEATURE_GO_AWAY,
    Feature.FEATURE_REAUTHENTICATE,
    Feature.FEATURE_DRAIN,
)
#: Output that waits for the stream beyond this is dropped; the hole in `seq` shows it.
MAX_WAITING_OUTPUT_BYTES: Final = 4 * 1024 * 1024
#: Frames in one message, for a daemon that does not say how many it takes.
MAX_MESSAGE_FRAMES: Final = 5_000
_FRAME_OVERHEAD_BYTES: Final = 6
_ENVELOPE_BYTES: Final = 64


class Attempt:
    """One attempt this agent was given. Identity, not fence, tells two runs of the same attempt apart."""

    __slots__ = (
        "assign",
        "cancel_reason",
        "fence",
        "is_void",
        "output_seq",
        "progress_frame",
        "progress_seq",
        "report",
    )

    def __init__(self, assign: Assign) -> None:
        self.assign = assign
        self.fence = assign.fence
        #: Set when the mesh asked to stop.
        self.cancel_reason: CancelReason.ValueType | None = None
        #: The Done, Fail or Stopped frame, once the handler ended.
        self.report: AgentFrame | None = None
        #: The mesh took it away. One that was given up by the agent may still be held by the mesh, and is not named.
        self.is_void = False
        self.progress_seq = 0
        self.output_seq = 0
        #: Progress that still waits to be sent; newer progress overwrites it.
        self.progress_frame: AgentFrame | None = None

    @property
    def phase(self) -> HeldPhase.ValueType:
        if self.report is not None:
            return HeldPhase.HELD_PHASE_RESULT_PENDING
        if self.cancel_reason is not None:
            return HeldPhase.HELD_PHASE_STOPPING
        return HeldPhase.HELD_PHASE_RUNNING


@dataclass(slots=True)
class Received:
    """What a batch of frames means for the agent beyond the machine's own state."""

    start: list[Attempt] = field(default_factory=list)
    cancel: list[Attempt] = field(default_factory=list)
    #: No longer ours: stop them, nobody waits for their reports.
    drop: list[Attempt] = field(default_factory=list)
    opened: bool = False
    #: The mesh prescribed when to beat.
    paced: bool = False
    reauthenticate: bool = False
    go_away: GoAway | None = None
    #: Set when the mesh says that it assigns nothing new until further notice.
    drain_reason: str = ""


class SessionMachine:
    """The state of one agent process towards the mesh, over all streams and sessions it will have."""

    def __init__(self, namespace: str, agent_id: str, slots: int, handles: Callable[[str], bool]) -> None:
        self.namespace = namespace
        self.agent_id = agent_id
        self.slots = slots
        self.session_id = ""
        self.stream_seq = 0
        self.limits = SessionLimits()
        self.is_open = False
        self.is_leaving = False
        self.features: frozenset[int] = frozenset()
        self._handles = handles
        self._resume_token = b""
        self._beat_seq = 0
        self._held: dict[bytes, Attempt] = {}
        self._running: set[Attempt] = set()
        #: Fences that the last Open named though they were taken away, until it is answered.
        self._named_void: set[bytes] = set()
        self._outbox: deque[AgentFrame] = deque()
        self._waiting_output_bytes = 0

    # ---- what is held ----------------------------------------------------------------------------------------------

    @property
    def held_count(self) -> int:
        """Attempts that run or whose report is not acknowledged."""
        return len(self._held)

    @property
    def running_count(self) -> int:
        """Handlers that have not ended, also those of attempts taken away."""
        return len(self._running)

    @property
    def has_frames(self) -> bool:
        """True when something waits to be sent on the open stream."""
        return bool(self._outbox)

    # ---- sessions and streams --------------------------------------------------------------------------------------

    def registered(self, session_id: str, resume_token: bytes, limits: SessionLimits) -> None:
        """A session begins; what is held goes along, the mesh decides about it in Opened."""
        if session_id != self.session_id:
            self.session_id = session_id
            self.stream_seq = 0
        self._resume_token = resume_token
        self.limits = limits

    def open_stream(self, max_inbound_bytes: int, *, takes_work: bool) -> AgentFrame:
        """The first frame of a new stream. Everything that waited for the stream before is discarded."""
        self.stream_closed()
        self.stream_seq += 1
        held = self._held_now() if takes_work else []
        self._named_void = {a.fence for a in self._running if a.is_void} if takes_work else set()
        return AgentFrame(
            open=Open(
                namespace=self.namespace,
                agent_id=self.agent_id,
                session_id=self.session_id,
                resume_token=self._resume_token,
                stream_seq=self.stream_seq,
                protocol=PROTOCOL,
                features=FEATURES,
                max_inbound_bytes=max_inbound_bytes,
                slots=0 if self.is_leaving else self.slots,
                held=held,
            )
        )

    def _held_now(self) -> list[HeldAttempt]:
        """What is held, and what was taken away while its handler still runs: it takes a slot until that has ended."""
        return [HeldAttempt(fence=a.fence, phase=a.phase) for a in self._held.values()] + [
            HeldAttempt(fence=a.fence, phase=HeldPhase.HELD_PHASE_STOPPING)
            for a in self._running
            if a.is_void
        ]

    def stream_closed(self) -> None:
        """The stream broke or ended: nothing more goes out on it."""
        self.is_open = False
        self._beat_seq = 0
        self._outbox.clear()
        self._waiting_output_bytes = 0
        for attempt in self._held.values():
            attempt.progress_frame = None

    def abandon_all(self) -> list[Attempt]:
        """Gives up everything held: the connection was away for longer than the mesh allows."""
        abandoned = list(self._held.values())
        self._held.clear()
        return abandoned

    # ---- frames down -----------------------------------------------------------------------------------------------

    def receive(self, frames: Iterable[MeshFrame]) -> Received:
        """Takes a batch of frames; queues the answers and returns what is left for the agent to do."""
        received = Received()
        for frame in frames:
            match frame.WhichOneof("frame"):
                case "assign":
                    self._assigned(frame.assign, received)
                case "ack":
                    self._acknowledged(frame.ack.fence)
                case "cancel":
                    attempt = self._held.get(frame.cancel.fence)
                    if attempt is not None and attempt.report is None and attempt.cancel_reason is None:
                        attempt.cancel_reason = frame.cancel.reason
                        received.cancel.append(attempt)
                case "revoke":
                    self._take_away(frame.revoke.fence, received)
                case "opened":
                    self._opened(frame.opened, received)
                case "drain":
                    received.drain_reason = frame.drain.reason or "no reason given"
                case "go_away":
                    received.go_away = frame.go_away
                case "reauthenticate":
                    received.reauthenticate = True
                case "lease_ack":
                    self._lease_extended(frame.lease_ack, received)
                case _:  # from later versions
                    pass
        return received

    def _opened(self, opened: Opened, received: Received) -> None:
        received.opened = self.is_open = True
        self.features = frozenset(opened.features)
        if opened.HasField("limits"):
            received.paced = opened.limits.beat_interval != self.limits.beat_interval
            self.limits = opened.limits
        for fence in opened.drop:
            attempt = self._held.get(fence)
            self._take_away(fence, received)
            if attempt is not None and attempt.report is not None:
                # It may have ended after Open had said that it runs.
                self._send(AgentFrame(stopped=Stopped(fence=fence)))
        for fence in self._named_void - {a.fence for a in self._running}:
            self._send(AgentFrame(stopped=Stopped(fence=fence)))
        self._named_void = set()
        self._outbox.extend(a.report for a in self._held.values() if a.report is not None)

    def _acknowledged(self, fence: bytes) -> None:
        attempt = self._held.get(fence)
        if attempt is not None and attempt.report is not None:
            del self._held[fence]

    def _lease_extended(self, ack: LeaseAck, received: Received) -> None:
        if not ack.HasField("lease_ttl"):
            return
        received.paced = True
        self.limits.beat_interval.CopyFrom(ack.beat_interval)
        self.limits.lease_ttl.CopyFrom(ack.lease_ttl)
        self._beat_seq += 1
        self._send(AgentFrame(beat=Beat(seq=self._beat_seq, lease_ttl=ack.lease_ttl)))

    def _assigned(self, assign: Assign, received: Received) -> None:
        known = self._held.get(assign.fence)
        if known is not None:  # told again; the handler runs or ran already
            self._send(known.report or _accept(assign.fence))
            return
        refusal = self._refusal(assign)
        if refusal:
            self._send(AgentFrame(decline=Decline(fence=assign.fence, reason=refusal)))
            return
        attempt = Attempt(assign)
        self._held[assign.fence] = attempt
        self._running.add(attempt)
        received.start.append(attempt)
        self._send(_accept(assign.fence))

    def _refusal(self, assign: Assign) -> str:
        if self.is_leaving:
            return "the agent is leaving"
        if not self._handles(assign.task_type):
            return f"the agent has no handler for task type {assign.task_type}"[:256]
        if len(self._running) >= self.slots:
            return "all slots of the agent are in use"
        return ""

    def _take_away(self, fence: bytes, received: Received) -> None:
        attempt = self._held.pop(fence, None)
        if attempt is not None:
            attempt.is_void = True
            received.drop.append(attempt)

    # ---- frames up -------------------------------------------------------------------------------------------------

    def finished(self, attempt: Attempt, report: AgentFrame) -> None:
        """The handler ended; the report goes out, or only Stopped when the attempt was taken away."""
        self._running.discard(attempt)
        if attempt.fence not in self._held:
            self._send(AgentFrame(stopped=Stopped(fence=attempt.fence)))
        elif self._is_held(attempt) and attempt.report is None:
            attempt.report = report
            self._send(report)

    def progress(self, attempt: Attempt, fraction: float | None, message: str) -> None:
        """Reports how far an attempt is; only the newest report waits."""
        if not self._is_held(attempt) or attempt.report is not None:
            return
        attempt.progress_seq += 1
        if attempt.progress_frame is not None:
            waiting = attempt.progress_frame.progress
            waiting.seq, waiting.message = attempt.progress_seq, message
            if fraction is not None:
                waiting.fraction = fraction
            return
        report = Progress(fence=attempt.fence, seq=attempt.progress_seq, fraction=fraction, message=message)
        if self.is_open:
            attempt.progress_frame = AgentFrame(progress=report)
            self._outbox.append(attempt.progress_frame)

    def output(self, attempt: Attempt, chunk: bytes) -> None:
        """Passes a piece of output on; dropped while there is no stream or too much waits."""
        if not self._is_held(attempt) or attempt.report is not None:
            return
        attempt.output_seq += 1
        if self.is_open and self._waiting_output_bytes + len(chunk) <= MAX_WAITING_OUTPUT_BYTES:
            self._waiting_output_bytes += len(chunk)
            self._send(AgentFrame(output=Output(fence=attempt.fence, seq=attempt.output_seq, chunk=chunk)))

    def beat(self) -> None:
        """A sign of life; skipped when something waits, since any frame is one."""
        if self.is_open and not self._outbox:
            self._beat_seq += 1
            frame = AgentFrame()
            frame.beat.seq = self._beat_seq
            self._send(frame)

    def leave(self) -> None:
        """Takes nothing new from now on, on any stream."""
        self.is_leaving = True
        self._send(AgentFrame(slots=Slots(slots=0)))

    def fresh_token(self, token: str) -> None:
        """Hands a renewed token to the open stream, if the mesh understands that."""
        if Feature.FEATURE_REAUTHENTICATE in self.features:
            self._send(AgentFrame(fresh_token=FreshToken(token=token)))

    def bye(self, reason: str) -> None:
        """Leaves in good order; what is still held goes to others."""
        self._send(AgentFrame(bye=Bye(reason=reason)))

    def take_batch(self) -> list[AgentFrame]:
        """The next frames to send, as many as fit into one message; empty when nothing waits."""
        limit_bytes = (self.limits.max_message_bytes or MAX_MESSAGE_BYTES) - _ENVELOPE_BYTES
        limit_frames = self.limits.max_message_frames or MAX_MESSAGE_FRAMES
        batch: list[AgentFrame] = []
        outbox = self._outbox
        while outbox and len(batch) < limit_frames:
            frame = outbox[0]
            limit_bytes -= frame.ByteSize() + _FRAME_OVERHEAD_BYTES
            if batch and limit_bytes < 0:
                break
            batch.append(outbox.popleft())
            self._left_outbox(frame)
        return batch

    def _left_outbox(self, frame: AgentFrame) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "output":
            self._waiting_output_bytes -= len(frame.output.chunk)
        elif kind == "progress":
            attempt = self._held.get(frame.progress.fence)
            if attempt is not None:
                attempt.progress_frame = None

    def _is_held(self, attempt: Attempt) -> bool:
        return self._held.get(attempt.fence) is attempt

    def _send(self, frame: AgentFrame) -> None:
        if self.is_open:
            self._outbox.append(frame)


def _accept(fence: bytes) -> AgentFrame:
    # Filled in place: a part made by itself and copied into its frame takes more than twice as long.
    frame = AgentFrame()
    frame.accept.fence = fence
    return frame
