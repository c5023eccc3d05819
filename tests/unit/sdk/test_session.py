"""The session machine: what it holds, what it sends, and what it forgets."""

from __future__ import annotations

import pytest

from agentmesh.session import MAX_MESSAGE_FRAMES, MAX_WAITING_OUTPUT_BYTES, Attempt, SessionMachine
from agentmesh.v1.session_pb2 import (
    Ack,
    AgentFrame,
    Assign,
    Cancel,
    CancelReason,
    Done,
    Drain,
    Feature,
    HeldPhase,
    LeaseAck,
    MeshFrame,
    Opened,
    Revoke,
    SessionLimits,
)


@pytest.fixture
def machine() -> SessionMachine:
    made = SessionMachine("ns", "a1", 2, lambda task_type: task_type == "work")
    made.registered("s1", b"r", SessionLimits())
    made.open_stream(1, takes_work=True)
    made.receive([MeshFrame(opened=Opened(features=[Feature.FEATURE_REAUTHENTICATE]))])
    return made


def assign(fence: str, task_type: str = "work") -> MeshFrame:
    return MeshFrame(assign=Assign(fence=fence.encode(), task_type=task_type))


def begin(machine: SessionMachine, fence: str) -> Attempt:
    (attempt,) = machine.receive([assign(fence)]).start
    return attempt


def done(fence: str) -> AgentFrame:
    return AgentFrame(done=Done(fence=fence.encode()))


def kinds(machine: SessionMachine) -> list[str | None]:
    return [frame.WhichOneof("frame") for frame in machine.take_batch()]


def test_an_assignment_is_accepted_held_and_reported_until_its_ack(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    machine.finished(attempt, done("a"))
    assert kinds(machine) == ["accept", "done"]
    assert machine.held_count == 1
    machine.receive([MeshFrame(ack=Ack(fence=b"a"))])
    assert machine.held_count == 0


def test_an_ack_for_what_has_no_report_changes_nothing(machine: SessionMachine) -> None:
    begin(machine, "a")
    machine.receive([MeshFrame(ack=Ack(fence=b"a")), MeshFrame(ack=Ack(fence=b"unknown"))])
    assert machine.held_count == 1


def test_an_assignment_told_again_starts_nothing_and_repeats_the_answer(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    assert not machine.receive([assign("a")]).start
    assert kinds(machine) == ["accept", "accept"]
    machine.finished(attempt, done("a"))
    machine.receive([assign("a")])
    assert kinds(machine) == ["done", "done"]


def test_what_cannot_run_here_is_declined(machine: SessionMachine) -> None:
    machine.receive([assign("x", "other"), assign("a"), assign("b"), assign("c")])
    assert kinds(machine) == ["decline", "accept", "accept", "decline"]
    machine.leave()
    machine.take_batch()
    machine.receive([assign("d")])
    assert kinds(machine) == ["decline"]


def test_an_assignment_after_a_drain_says_that_it_was_lifted(machine: SessionMachine) -> None:
    assert machine.receive([MeshFrame(drain=Drain(reason="new kernel"))]).drain_reason == "new kernel"
    assert kinds(machine) == []
    machine.receive([assign("a")])
    assert kinds(machine) == ["accept"]


def test_a_handler_that_goes_on_after_revoke_keeps_its_slot_until_it_says_that_it_ended(
    machine: SessionMachine,
) -> None:
    attempt = begin(machine, "a")
    begin(machine, "b")
    assert machine.receive([MeshFrame(revoke=Revoke(fence=b"a"))]).drop == [attempt]
    machine.take_batch()
    machine.receive([assign("c")])
    assert kinds(machine) == ["decline"]
    machine.finished(attempt, done("a"))
    assert kinds(machine) == ["stopped"]
    assert begin(machine, "d").fence == b"d"


def test_an_attempt_that_ended_between_open_and_opened_and_is_dropped_frees_its_slot(
    machine: SessionMachine,
) -> None:
    attempt = begin(machine, "a")
    opening = machine.open_stream(1, takes_work=True).open
    assert opening.held[0].phase == HeldPhase.HELD_PHASE_RUNNING
    machine.finished(attempt, done("a"))
    machine.receive([MeshFrame(opened=Opened(drop=[b"a"]))])
    assert kinds(machine) == ["stopped"]


def test_a_handler_that_goes_on_after_revoke_is_named_on_the_next_stream(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    given_up = begin(machine, "b")
    machine.receive([MeshFrame(revoke=Revoke(fence=b"a"))])
    assert machine.abandon_all() == [given_up]
    (named,) = machine.open_stream(1, takes_work=True).open.held
    assert (named.fence, named.phase) == (b"a", HeldPhase.HELD_PHASE_STOPPING)
    # It ends before the mesh has answered.
    machine.finished(attempt, done("a"))
    machine.receive([MeshFrame(opened=Opened(drop=[b"a"]))])
    assert kinds(machine) == ["stopped"]
    assert not machine.open_stream(1, takes_work=True).open.held


def test_a_late_end_of_an_abandoned_run_does_not_end_the_new_run_of_the_same_fence(
    machine: SessionMachine,
) -> None:
    first = begin(machine, "a")
    assert machine.abandon_all() == [first]
    second = begin(machine, "a")
    machine.take_batch()
    machine.finished(first, done("a"))
    assert not machine.has_frames
    machine.finished(second, done("a"))
    assert kinds(machine) == ["done"]


def test_a_cancel_counts_once_and_not_after_the_report(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    cancel = MeshFrame(cancel=Cancel(fence=b"a", reason=CancelReason.CANCEL_REASON_DEADLINE))
    assert machine.receive([cancel, cancel]).cancel == [attempt]
    assert attempt.phase == HeldPhase.HELD_PHASE_STOPPING
    machine.finished(attempt, done("a"))
    assert not machine.receive([cancel]).cancel
    assert attempt.phase == HeldPhase.HELD_PHASE_RESULT_PENDING


def test_a_new_stream_tells_what_is_held_and_resends_reports_that_are_kept(machine: SessionMachine) -> None:
    ended, dropped = begin(machine, "a"), begin(machine, "b")
    machine.finished(ended, done("a"))
    opening = machine.open_stream(1, takes_work=True).open
    assert opening.stream_seq == 2
    assert [(item.fence, item.phase) for item in opening.held] == [
        (b"a", HeldPhase.HELD_PHASE_RESULT_PENDING),
        (b"b", HeldPhase.HELD_PHASE_RUNNING),
    ]
    assert not machine.has_frames  # nothing before Opened
    machine.finished(dropped, done("b"))
    received = machine.receive([MeshFrame(opened=Opened(keep=[b"a"], drop=[b"b"]))])
    assert received.drop == [dropped]
    stopped, resent = machine.take_batch()
    assert (stopped.stopped.fence, resent.done.fence) == (b"b", b"a")


def test_a_new_session_starts_its_stream_numbers_anew(machine: SessionMachine) -> None:
    machine.open_stream(1, takes_work=True)
    machine.registered("s1", b"r", SessionLimits())
    assert machine.open_stream(1, takes_work=True).open.stream_seq == 3
    machine.registered("s2", b"r", SessionLimits())
    assert machine.open_stream(1, takes_work=True).open.stream_seq == 1


def test_only_the_newest_progress_waits(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    machine.progress(attempt, 0.1, "one")
    machine.progress(attempt, None, "two")
    _, frame = machine.take_batch()
    assert (frame.progress.seq, frame.progress.fraction, frame.progress.message) == (2, 0.1, "two")
    machine.progress(attempt, 0.2, "three")
    (frame,) = machine.take_batch()
    assert frame.progress.seq == 3


def test_output_is_bounded_and_leaves_holes(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    chunk = bytes(64 * 1024)
    for _ in range(100):
        machine.output(attempt, chunk)
    seqs = []
    while batch := machine.take_batch():
        assert sum(frame.ByteSize() for frame in batch) < 1024 * 1024
        seqs += [frame.output.seq for frame in batch if frame.HasField("output")]
    assert len(seqs) == MAX_WAITING_OUTPUT_BYTES // len(chunk)
    machine.output(attempt, b"x")
    assert machine.take_batch()[0].output.seq == 101
    machine.stream_closed()
    machine.output(attempt, b"x")
    assert not machine.has_frames


def test_batches_respect_the_daemons_limit(machine: SessionMachine) -> None:
    machine.limits.max_message_bytes = 1000
    attempt = begin(machine, "a")
    for _ in range(20):
        machine.output(attempt, bytes(200))
    machine.output(attempt, bytes(5000))  # travels alone: nothing else could be done with it
    sizes = []
    while batch := machine.take_batch():
        sizes.append((len(batch), sum(frame.ByteSize() for frame in batch)))
    assert all(size < 1000 for count, size in sizes if count > 1)
    assert sum(count for count, _ in sizes) == 22


def test_batches_have_no_more_frames_than_the_daemon_takes(machine: SessionMachine) -> None:
    attempt = begin(machine, "a")
    for _ in range(MAX_MESSAGE_FRAMES):
        machine.output(attempt, b"x")
    assert [len(machine.take_batch()) for _ in range(3)] == [MAX_MESSAGE_FRAMES, 1, 0]
    machine.limits.max_message_frames = 3
    for _ in range(4):
        machine.output(attempt, b"x")
    assert [len(machine.take_batch()) for _ in range(3)] == [3, 1, 0]


def test_a_beat_is_skipped_when_something_waits(machine: SessionMachine) -> None:
    machine.beat()
    machine.beat()
    assert kinds(machine) == ["beat"]
    begin(machine, "a")
    machine.beat()
    assert kinds(machine) == ["accept"]


def test_leaving_takes_nothing_new_on_later_streams_either(machine: SessionMachine) -> None:
    machine.leave()
    assert kinds(machine) == ["slots"]
    opening = machine.open_stream(1, takes_work=True).open
    assert opening.HasField("slots")  # absent means something else
    assert opening.slots == 0


def test_a_fresh_token_goes_out_only_where_it_is_understood(machine: SessionMachine) -> None:
    machine.fresh_token("t")
    assert kinds(machine) == ["fresh_token"]
    machine.open_stream(1, takes_work=True)
    machine.receive([MeshFrame(opened=Opened())])
    machine.fresh_token("t")
    assert not machine.has_frames


def test_a_new_pace_is_taken_and_named_in_a_beat_at_once(machine: SessionMachine) -> None:
    assert not machine.receive([MeshFrame(lease_ack=LeaseAck(beat_seq=1))]).paced
    assert kinds(machine) == []
    ack = LeaseAck(beat_seq=1)
    ack.beat_interval.FromSeconds(20)
    ack.lease_ttl.FromSeconds(70)
    assert machine.receive([MeshFrame(lease_ack=ack)]).paced
    assert machine.limits.beat_interval.ToSeconds() == 20
    (frame,) = machine.take_batch()
    assert frame.beat.lease_ttl.ToSeconds() == 70
