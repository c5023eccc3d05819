"""Messages of a stream are cut below both limits: bytes and frames."""

from __future__ import annotations

from meshd.domain.frames import Ack, Assign
from meshd.domain.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAMES
from meshd.wire.codec.frames import FRAME_OVERHEAD_BYTES, cut


def test_a_message_down_has_no_more_frames_than_one_up() -> None:
    acks = [Ack(b"fence")] * (2 * MAX_MESSAGE_FRAMES + 1)
    batches = list(cut(list(acks), MAX_MESSAGE_BYTES))
    assert [len(batch) for batch in batches] == [MAX_MESSAGE_FRAMES, MAX_MESSAGE_FRAMES, 1]


def test_bytes_come_before_count() -> None:
    assign = Assign(b"f", 1, 1, "t", "work", 1, 1_000, 0, "", "")
    batches = list(cut([assign] * 5, 2 * (FRAME_OVERHEAD_BYTES + 1_000)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
