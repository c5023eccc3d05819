"""Frames of a session between contract and domain, in batches cut below the limits of a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeGuard

from agentmesh.v1 import session_pb2 as pb
from meshd.domain import frames as f
from meshd.domain.commands import Held
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import (
    MAX_INLINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_FRAMES,
    MAX_OUTPUT_CHUNK_BYTES,
    MAX_SLOTS,
    SessionRules,
)
from meshd.domain.pacing import Lease
from meshd.wire import validate
from meshd.wire.codec.payloads import encoded
from meshd.wire.codec.values import duration, enum, timestamp
from meshd.wire.fitting import shortened

PROTOCOL_VERSION = 1
MIN_INBOUND_BYTES = 512 * 1024
"""An agent that cannot receive one assignment with the largest payload is refused when it opens."""
FRAME_OVERHEAD_BYTES = 1024
"""Upper bound of a frame without its payload."""
FENCE_BYTES = 12
"""Length of every fence that was ever given out. What waits to be written is bounded by frames, which repeat fences."""


def _fence(message: Any, field: str) -> bytes:
    fence: bytes = message.fence
    if len(fence) > FENCE_BYTES:
        text = f"has {len(fence)} bytes; send the fence as the assignment gave it, which has {FENCE_BYTES}"
        raise validate.invalid(field, text)
    return fence


def _beat(frame: pb.Beat) -> f.Beat:
    if not frame.HasField("lease_ttl"):
        return f.Beat(frame.seq)
    return f.Beat(frame.seq, validate.duration_ms(frame.lease_ttl, "beat.lease_ttl"))


def _done(frame: pb.Done) -> f.Done:
    return f.Done(_fence(frame, "done.fence"), encoded(frame.output, "done.output", "result"))


def _fail(frame: pb.Fail) -> f.Fail:
    # Absent is the safe one: an agent that says nothing of trying again must not end the task.
    retryable = frame.retryable or not frame.HasField("retryable")
    return f.Fail(
        _fence(frame, "fail.fence"), shortened(frame.type, 128), shortened(frame.message, 4096), retryable
    )


def _output(frame: pb.Output) -> f.Output:
    if len(frame.chunk) > MAX_OUTPUT_CHUNK_BYTES:
        raise Refusal(
            Reason.TOO_LARGE,
            f"the piece has {len(frame.chunk)} bytes; at most {MAX_OUTPUT_CHUNK_BYTES} are allowed",
            field="output.chunk",
        )
    return f.Output(_fence(frame, "output.fence"), frame.seq, frame.chunk)


def _progress(frame: pb.Progress) -> f.Progress:
    # Volatile and for people: what is no fraction, NaN among it, is left out and ends no stream.
    fraction = frame.fraction if frame.HasField("fraction") and 0 <= frame.fraction <= 1 else None
    return f.Progress(_fence(frame, "progress.fence"), frame.seq, fraction, shortened(frame.message, 1024))


def _decline(frame: pb.Decline) -> f.Decline:
    pause = validate.duration_ms(frame.retry_in, "decline.retry_in", 0, 600_000)
    return f.Decline(_fence(frame, "decline.fence"), shortened(frame.reason, 256), pause)


_UP: dict[str, Callable[[Any], f.UpFrame]] = {
    "beat": _beat,
    "slots": lambda m: f.Slots(max(0, m.slots)),
    "accept": lambda m: f.Accept(_fence(m, "accept.fence")),
    "decline": _decline,
    "progress": _progress,
    "output": _output,
    "done": _done,
    "fail": _fail,
    "stopped": lambda m: f.Stopped(_fence(m, "stopped.fence")),
    "bye": lambda m: f.Bye(shortened(m.reason, 256)),
}


def check_count(frames: Sequence[pb.AgentFrame]) -> None:
    """Refuse a message of more frames than can be handled in one go. Raises Refusal."""
    if len(frames) > MAX_MESSAGE_FRAMES:
        message = f"the message has {len(frames)} frames; at most {MAX_MESSAGE_FRAMES} are allowed: send more messages"
        raise _too_many("frames", message, len(frames), MAX_MESSAGE_FRAMES)


def _too_many(field: str, message: str, count: int, limit_count: int) -> Refusal:
    metadata = {"count": str(count), "limit_count": str(limit_count)}
    return Refusal(Reason.TOO_LARGE, message, field=field, metadata=metadata)


def up(frames: Sequence[pb.AgentFrame]) -> tuple[list[f.UpFrame], str]:
    """Return the domain's frames, and the fresh token if one is among them. Raises Refusal.

    Frames this version does not know are passed over: only negotiated ones carry meaning.
    """
    check_count(frames)
    converted: list[f.UpFrame] = []
    token = ""
    for message in frames:
        kind = message.WhichOneof("frame")
        convert = _UP.get(kind) if kind is not None else None
        if convert is not None:
            converted.append(convert(getattr(message, kind)))  # type: ignore[arg-type]
        elif kind == "fresh_token":
            token = message.fresh_token.token
        elif kind == "open":
            raise Refusal(
                Reason.PROTOCOL_VIOLATION,
                "Open came twice; it is the first frame of a stream and no other",
            )
    return converted, token


def check_open(message: pb.Open) -> list[Held]:
    """Check an Open and return what the agent holds. Raises Refusal."""
    if message.protocol != PROTOCOL_VERSION:
        text = f"the protocol version is {message.protocol}; this daemon speaks {PROTOCOL_VERSION}"
        raise Refusal(Reason.PROTOCOL_VIOLATION, text, field="open.protocol")
    if message.max_inbound_bytes and message.max_inbound_bytes < MIN_INBOUND_BYTES:
        raise validate.invalid(
            "open.max_inbound_bytes",
            f"is {message.max_inbound_bytes}; an agent must be able to receive {MIN_INBOUND_BYTES}",
        )
    if len(message.held) > MAX_SLOTS:
        text = f"{len(message.held)} attempts are named; an agent has at most {MAX_SLOTS} slots: name what it holds"
        raise _too_many("open.held", text, len(message.held), MAX_SLOTS)
    return [
        Held(_fence(h, "open.held.fence"), enum(f.HeldPhase, h.phase, "open.held.phase", f.HeldPhase.RUNNING))
        for h in message.held
    ]


def features(values: Iterable[int]) -> frozenset[int]:
    """Return those of the agent's features that this daemon has as well."""
    return frozenset(map(int, f.Feature)).intersection(values)


def limits(rules: SessionRules, lease: Lease, disconnected_grace_ms: int) -> pb.SessionLimits:
    """Return the limits of a session."""
    return pb.SessionLimits(
        beat_interval=duration(lease.beat_interval_ms),
        lease_ttl=duration(lease.ttl_ms),
        accept_timeout=duration(rules.accept_timeout_ms),
        max_reconnect_backoff=duration(rules.max_reconnect_backoff_ms),
        disconnected_grace=duration(disconnected_grace_ms),
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_inline_bytes=MAX_INLINE_BYTES,
        max_message_frames=MAX_MESSAGE_FRAMES,
    )


def down(frame: f.DownFrame, payloads: dict[int, bytes], rules: SessionRules) -> pb.MeshFrame:
    """Return the contract's frame; ``payloads`` has the input of every assignment."""
    if type(frame) is f.Assign:
        return _assign(frame, payloads[frame.task_key])
    if type(frame) is f.Opened:
        return _opened(frame, rules)
    return _DOWN[type(frame)](frame)


def _assign(frame: f.Assign, payload: bytes) -> pb.MeshFrame:
    message = pb.MeshFrame()
    assign = message.assign
    assign.fence = frame.fence
    assign.fence_number = frame.fence_number
    assign.task_id = frame.task_id
    assign.task_type = frame.task_type
    assign.attempt = frame.attempt
    if payload:
        assign.payload.ParseFromString(payload)
    if frame.deadline_ms:
        assign.deadline.CopyFrom(timestamp(frame.deadline_ms))
    if frame.traceparent:
        assign.traceparent = frame.traceparent
    if frame.context_id:
        assign.context_id = frame.context_id
    return message


def _opened(frame: f.Opened, rules: SessionRules) -> pb.MeshFrame:
    opened = pb.Opened(
        features=sorted(frame.features),  # type: ignore[arg-type]
        epoch=frame.epoch,
        keep=frame.keep,
        drop=frame.drop,
        limits=limits(rules, frame.lease, frame.disconnected_grace_ms),
    )
    return pb.MeshFrame(opened=opened)


# Filled in place: a part made by itself and copied into its frame takes more than twice as long.


def _ack(frame: f.Ack) -> pb.MeshFrame:
    message = pb.MeshFrame()
    message.ack.fence = frame.fence
    return message


def _lease_ack(frame: f.LeaseAck) -> pb.MeshFrame:
    message = pb.MeshFrame()
    ack = message.lease_ack
    ack.beat_seq = frame.beat_seq
    if frame.lease is not None:
        ack.beat_interval.CopyFrom(duration(frame.lease.beat_interval_ms))
        ack.lease_ttl.CopyFrom(duration(frame.lease.ttl_ms))
    return message


def _cancel(frame: f.Cancel) -> pb.MeshFrame:
    reason: Any = int(frame.reason)
    return pb.MeshFrame(cancel=pb.Cancel(fence=frame.fence, reason=reason, grace=duration(frame.grace_ms)))


_DOWN: dict[type, Callable[[Any], pb.MeshFrame]] = {
    f.Ack: _ack,
    f.LeaseAck: _lease_ack,
    f.Revoke: lambda frame: pb.MeshFrame(revoke=pb.Revoke(fence=frame.fence)),
    f.Cancel: _cancel,
    f.Drain: lambda frame: pb.MeshFrame(drain=pb.Drain(reason=frame.reason)),
    f.GoAway: lambda frame: pb.MeshFrame(go_away=pb.GoAway(reason=int(frame.reason))),  # type: ignore[arg-type]
    f.Reauthenticate: lambda frame: pb.MeshFrame(reauthenticate=pb.Reauthenticate(by=timestamp(frame.by_ms))),
}


def too_large(frame: f.DownFrame, limit_bytes: int) -> TypeGuard[f.Assign]:
    """Return whether no message can carry a frame; only an assignment can be so large."""
    return type(frame) is f.Assign and FRAME_OVERHEAD_BYTES + frame.payload_bytes > limit_bytes


def cut(frames: list[f.DownFrame], limit_bytes: int) -> Iterator[list[f.DownFrame]]:
    """Cut frames into batches that stay below the limits, by bytes before count. One that does not fit stands alone."""
    batch: list[f.DownFrame] = []
    size = 0
    for frame in frames:
        if type(frame) is f.Assign:
            own = FRAME_OVERHEAD_BYTES + frame.payload_bytes
        elif type(frame) is f.Opened:
            own = FRAME_OVERHEAD_BYTES + 16 * (len(frame.keep) + len(frame.drop))
        elif type(frame) is f.Drain:
            own = FRAME_OVERHEAD_BYTES
        else:
            own = 64
        if batch and (size + own > limit_bytes or len(batch) >= MAX_MESSAGE_FRAMES):
            yield batch
            batch, size = [], 0
        batch.append(frame)
        size += own
    if batch:
        yield batch
