"""What a payload may be, in a task and as a result: the same for both, and never more than a message carries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentmesh.v1 import payload_pb2, session_pb2, task_pb2
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Done
from meshd.domain.limits import MAX_INLINE_BYTES, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES
from meshd.wire.codec import frames, tasks
from meshd.wire.services.sessions import HEADROOM_BYTES

Payload = payload_pb2.Payload


def as_input(payload: payload_pb2.Payload) -> bytes:
    return tasks.spec_from(task_pb2.TaskSpec(task_type="t", payload=payload), "new").payload


def as_result(payload: payload_pb2.Payload) -> bytes:
    frame = session_pb2.AgentFrame(done=session_pb2.Done(fence=b"f", output=payload))
    ((done,), _) = frames.up([frame])
    assert isinstance(done, Done)
    return done.output


def unknown(size_bytes: int) -> payload_pb2.Payload:
    """A payload with a field of a later version."""
    field = b"\x9a\x06" + bytes((size_bytes & 127 | 128, size_bytes >> 7 & 127 | 128, size_bytes >> 14))
    return Payload.FromString(field + bytes(size_bytes))


LARGEST = Payload(
    inline=bytes(MAX_INLINE_BYTES),
    media_type="\N{SNOWMAN}" * 85,
    metadata={f"{n:02}" + "k" * 254: "v" * 256 for n in range(16)},
)


@pytest.mark.parametrize("check", [as_input, as_result])
@pytest.mark.parametrize(
    "payload",
    [
        Payload(),
        Payload(inline=b"x"),
        Payload(media_type="text/plain"),
        Payload(metadata={"": ""}),
        unknown(1000),
        LARGEST,
    ],
    ids=("nothing", "bytes", "media-type", "metadata", "unknown", "largest"),
)
def test_what_fits_is_kept_whole(
    check: Callable[[payload_pb2.Payload], bytes], payload: payload_pb2.Payload
) -> None:
    assert Payload.FromString(check(payload)) == payload


@pytest.mark.parametrize(("check", "field"), [(as_input, "spec.payload"), (as_result, "done.output")])
@pytest.mark.parametrize(
    ("payload", "reason", "part"),
    [
        (Payload(inline=bytes(MAX_INLINE_BYTES + 1)), Reason.TOO_LARGE, ""),
        (unknown(MAX_PAYLOAD_BYTES), Reason.TOO_LARGE, ""),
        (Payload(media_type="m" * 256), Reason.INVALID_ARGUMENT, ".media_type"),
        (Payload(inline=b"x", media_type="\N{SNOWMAN}" * 86), Reason.INVALID_ARGUMENT, ".media_type"),
        (Payload(metadata={chr(65 + n): "" for n in range(17)}), Reason.INVALID_ARGUMENT, ".metadata"),
        (Payload(metadata={"k" * 257: ""}), Reason.INVALID_ARGUMENT, ".metadata"),
        (Payload(metadata={"k": "v" * 257}), Reason.INVALID_ARGUMENT, ".metadata"),
        (Payload(ref=payload_pb2.PayloadRef()), Reason.INVALID_ARGUMENT, ".ref"),
    ],
    ids=("bytes", "unknown", "media-type", "wide-media-type", "entries", "key", "text", "ref"),
)
def test_what_does_not_fit_is_refused_by_its_name(
    check: Callable[[payload_pb2.Payload], bytes],
    field: str,
    payload: payload_pb2.Payload,
    reason: Reason,
    part: str,
) -> None:
    with pytest.raises(Refusal) as refused:
        check(payload)
    assert (refused.value.reason, refused.value.field) == (reason, field + part)
    if reason is Reason.TOO_LARGE:
        assert int(refused.value.metadata["size_bytes"]) > int(refused.value.metadata["limit_bytes"])


def test_a_media_type_cannot_stand_for_other_content() -> None:
    honest = Payload(media_type="app/bin", inline=b"to=alice;\0''\0\0amount=9")
    forged = Payload(media_type="app/bin\0''\0\0to=alice;", inline=b"amount=9")
    assert as_input(honest)
    for media_type in (forged.media_type, "text/plain\n", "\x7f"):
        with pytest.raises(Refusal, match="control characters") as refused:
            as_input(Payload(media_type=media_type, inline=forged.inline))
        assert refused.value.field == "spec.payload.media_type"


def test_the_largest_fits_into_the_smallest_message_and_two_into_any() -> None:
    assert LARGEST.ByteSize() <= MAX_PAYLOAD_BYTES
    smallest_bytes = frames.MIN_INBOUND_BYTES - HEADROOM_BYTES
    assert smallest_bytes >= MAX_PAYLOAD_BYTES + frames.FRAME_OVERHEAD_BYTES
    assert 2 * MAX_PAYLOAD_BYTES <= MAX_MESSAGE_BYTES
