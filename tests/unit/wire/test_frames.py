"""Messages of a stream: what those up mean and which are refused, and that those down are cut below both limits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentmesh.v1 import session_pb2 as pb
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Ack, Assign, Fail, Progress
from meshd.domain.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAMES, MAX_OUTPUT_CHUNK_BYTES
from meshd.wire.codec.frames import FENCE_BYTES, FRAME_OVERHEAD_BYTES, MIN_INBOUND_BYTES, check_open, cut, up


def decline(seconds: int) -> pb.AgentFrame:
    frame = pb.AgentFrame(decline=pb.Decline(fence=b"f"))
    frame.decline.retry_in.seconds = seconds
    return frame


def output(size_bytes: int) -> pb.AgentFrame:
    return pb.AgentFrame(output=pb.Output(fence=b"f", chunk=bytes(size_bytes)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (output(MAX_OUTPUT_CHUNK_BYTES + 1), Reason.TOO_LARGE),
        (decline(601), Reason.INVALID_ARGUMENT),
        (decline(-1), Reason.INVALID_ARGUMENT),
        (pb.AgentFrame(open=pb.Open()), Reason.PROTOCOL_VIOLATION),
    ],
    ids=["large output", "long pause", "negative pause", "second Open"],
)
def test_a_frame_beyond_the_contract_is_refused(frame: pb.AgentFrame, reason: Reason) -> None:
    assert len(up([output(MAX_OUTPUT_CHUNK_BYTES), decline(600)])[0]) == 2
    with pytest.raises(Refusal) as refused:
        up([frame])
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (pb.Open(protocol=2), Reason.PROTOCOL_VIOLATION),
        (pb.Open(), Reason.PROTOCOL_VIOLATION),
        (pb.Open(protocol=1, max_inbound_bytes=MIN_INBOUND_BYTES - 1), Reason.INVALID_ARGUMENT),
    ],
    ids=["later protocol", "no protocol", "small messages"],
)
def test_an_open_that_cannot_work_is_refused(opening: pb.Open, reason: Reason) -> None:
    assert check_open(pb.Open(protocol=1, max_inbound_bytes=MIN_INBOUND_BYTES)) == []
    with pytest.raises(Refusal) as refused:
        check_open(opening)
    assert refused.value.reason is reason


def test_a_message_down_has_no_more_frames_than_one_up() -> None:
    acks = [Ack(b"fence")] * (2 * MAX_MESSAGE_FRAMES + 1)
    batches = list(cut(list(acks), MAX_MESSAGE_BYTES))
    assert [len(batch) for batch in batches] == [MAX_MESSAGE_FRAMES, MAX_MESSAGE_FRAMES, 1]


def test_bytes_come_before_count() -> None:
    assign = Assign(b"f", 1, 1, "t", "work", 1, 1_000, 0, "", "")
    batches = list(cut([assign] * 5, 2 * (FRAME_OVERHEAD_BYTES + 1_000)))
    assert [len(batch) for batch in batches] == [2, 2, 1]


@pytest.mark.parametrize(("said", "meant"), [(None, True), (True, True), (False, False)])
def test_a_failure_that_says_nothing_of_trying_again_is_tried_again(said: bool | None, meant: bool) -> None:
    sent = pb.AgentFrame(fail=pb.Fail(fence=b"f", type="E", message="m", retryable=said))
    received = pb.AgentFrame.FromString(sent.SerializeToString())
    assert up([received]) == ([Fail(b"f", "E", "m", meant)], "")


@pytest.mark.parametrize("said", [7.5, -0.1, math.nan, math.inf, -math.inf])
def test_progress_that_is_no_fraction_is_left_out(said: float) -> None:
    for fraction in (0.0, 0.5, 1.0, None):
        frame = pb.AgentFrame(progress=pb.Progress(fence=b"f", seq=1, fraction=fraction, message="m"))
        assert up([frame])[0] == [Progress(b"f", 1, fraction, "m")]
    frame = pb.AgentFrame(progress=pb.Progress(fence=b"f", seq=2, fraction=said, message="m"))
    assert up([frame])[0] == [Progress(b"f", 2, None, "m")]


@pytest.mark.parametrize(
    "kind",
    [pb.Accept, pb.Decline, pb.Progress, pb.Output, pb.Done, pb.Fail, pb.Stopped],
    ids=lambda k: k.__name__,
)
def test_no_fence_is_longer_than_those_given_out(kind: Any) -> None:
    def frame(size_bytes: int) -> pb.AgentFrame:
        return pb.AgentFrame(**{kind.__name__.lower(): kind(fence=b"f" * size_bytes)})

    ((known,), _) = up([frame(FENCE_BYTES)])
    assert known.fence == b"f" * FENCE_BYTES  # type: ignore[union-attr]
    with pytest.raises(Refusal, match="13 bytes") as caught:
        up([frame(FENCE_BYTES + 1)])
    assert (caught.value.reason, caught.value.field) == (
        Reason.INVALID_ARGUMENT,
        f"{kind.__name__.lower()}.fence",
    )


def test_nor_is_one_that_an_agent_says_it_holds() -> None:
    held = pb.HeldAttempt(fence=b"f" * (FENCE_BYTES + 1))
    with pytest.raises(Refusal, match=r"open\.held\.fence"):
        check_open(pb.Open(protocol=1, held=[held]))
