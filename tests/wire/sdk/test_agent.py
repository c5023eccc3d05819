"""An agent against a scripted daemon over real gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from agentmesh import Agent, Fail, NonRetryable, TaskContext
from agentmesh.v1.session_pb2 import (
    Cancel,
    CancelReason,
    GoAway,
    GoAwayReason,
    HeldPhase,
    MeshFrame,
    Reauthenticate,
    Revoke,
)
from tests.wire.sdk.conftest import RunningAgent
from tests.wire.sdk.fake_mesh import FakeMesh, assign

Start = Callable[[Agent], RunningAgent]
WAIT_S = 10.0


def cancel(fence: str) -> MeshFrame:
    return MeshFrame(cancel=Cancel(fence=fence.encode(), reason=CancelReason.CANCEL_REASON_REQUESTED))


def test_sync_and_async_handlers_return_results(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    @agent.task("sum")
    def add(task: TaskContext) -> int:
        values = task.json()
        assert isinstance(values, list)
        return sum(values)

    @agent.task("echo")
    async def echo(task: TaskContext) -> bytes:
        task.progress(0.5, "half")
        task.output("some output")
        await asyncio.sleep(0)
        return task.payload

    start(agent)
    stream = mesh.next_stream()
    assert stream.opening.agent_id == "worker-1"
    assert list(mesh.registrations[0].spec.capabilities) == ["sum", "echo"]
    stream.send(assign("a", "sum", b"[1,2,3]"), assign("b", "echo", b"\x00\xff"))
    assert stream.expect("accept").fence == b"a"
    assert stream.expect("progress", "b").fraction == 0.5
    assert stream.expect("output", "b").chunk == b"some output"
    assert stream.expect("done", "b").output.inline == b"\x00\xff"
    stream.send(assign("c", "sum", b"[4]"))
    done = stream.expect("done", "c")
    assert (done.output.inline, done.output.media_type) == (b"4", "application/json")


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (ValueError("bad luck"), "ValueError", True),
        (NonRetryable("no use"), "NonRetryable", False),
        (Fail("Custom", "as I say", retryable=True), "Custom", True),
    ],
)
def test_failures_are_reported_with_type_and_message(
    mesh: FakeMesh, agent: Agent, start: Start, error: Exception, kind: str, retryable: bool
) -> None:
    @agent.task("work")
    def work(task: TaskContext) -> None:
        raise error

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    fail = stream.expect("fail", "a")
    assert (fail.type, fail.message, fail.retryable) == (kind, str(error), retryable)


class Unspeakable(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Unspeakable(), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
def test_however_a_handler_ends_its_attempt_ends(
    mesh: FakeMesh, agent: Agent, start: Start, error: BaseException, is_async: bool
) -> None:
    async def work_async(task: TaskContext) -> None:
        raise error

    def work(task: TaskContext) -> None:
        raise error

    agent.task("work")(work_async if is_async else work)
    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    fail = stream.expect("fail", "a")
    assert (fail.type, fail.retryable) == (type(error).__name__, True)


def test_what_has_no_handler_or_no_slot_is_declined(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    release = threading.Event()

    @agent.task("work")
    def work(task: TaskContext) -> None:
        release.wait(WAIT_S)

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a", "other"), *(assign(f"n{i}") for i in range(5)))
    assert stream.expect("decline").fence == b"a"
    assert stream.expect("decline").fence == b"n4"
    release.set()


def test_a_result_is_kept_until_acknowledged_over_reconnects(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    running = threading.Event()

    @agent.task("work")
    async def work(task: TaskContext) -> str:
        if task.id == "task-slow":
            running.set()
            await asyncio.Event().wait()
        return "result"

    mesh.acks = False
    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("quick"), assign("slow"))
    stream.expect("done", "quick")
    assert running.wait(WAIT_S)
    mesh.stop()
    mesh.acks = True
    mesh.start()
    again = mesh.next_stream()
    held = {item.fence: item.phase for item in again.opening.held}
    assert held == {b"quick": HeldPhase.HELD_PHASE_RESULT_PENDING, b"slow": HeldPhase.HELD_PHASE_RUNNING}
    assert again.opening.session_id == stream.opening.session_id
    assert again.opening.stream_seq > stream.opening.stream_seq
    assert len(mesh.registrations) == 1
    assert again.expect("done", "quick").output.inline == b"result"
    again.send(cancel("slow"))
    again.expect("stopped", "slow")


def test_cancel_reaches_async_and_sync_handlers(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    flags: list[bool] = []
    started = threading.Semaphore(0)

    @agent.task("async")
    async def waits(task: TaskContext) -> None:
        started.release()
        try:
            await asyncio.Event().wait()
        finally:
            flags.append(task.cancelled)

    @agent.task("sync")
    def polls(task: TaskContext) -> None:
        started.release()
        pause = threading.Event()
        while True:
            task.raise_if_cancelled()
            pause.wait(0.005)

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a", "async"), assign("s", "sync"))
    for _ in range(2):
        assert started.acquire(timeout=WAIT_S)
    stream.send(cancel("a"), cancel("s"))
    kinds = {stream.expect("stopped").fence for _ in range(2)}
    assert kinds == {b"a", b"s"}
    assert flags == [True]


def test_an_attempt_cancelled_before_its_handler_began_is_stopped(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    @agent.task("work")
    async def work(task: TaskContext) -> str:
        await asyncio.Event().wait()
        return "never"

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"), cancel("a"))
    stream.expect("stopped", "a")


def test_a_revoked_attempt_is_stopped_and_only_its_end_is_told(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    begun, stopped = threading.Event(), threading.Event()

    @agent.task("work")
    async def work(task: TaskContext) -> str:
        if task.id == "task-b":
            return "b"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "late"

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("accept", "a")
    assert begun.wait(WAIT_S)
    stream.send(MeshFrame(revoke=Revoke(fence=b"a")))
    assert stopped.wait(WAIT_S)
    stream.expect("stopped", "a")
    stream.send(assign("b"))
    stream.expect("done", "b")


def test_what_the_mesh_drops_after_a_reconnect_is_stopped(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    stopped = threading.Event()

    @agent.task("work")
    async def work(task: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("accept", "a")
    mesh.drop = [b"a"]
    stream.end()
    mesh.next_stream()
    assert stopped.wait(WAIT_S)


def test_a_lost_session_is_registered_anew_and_results_go_along(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    @agent.task("work")
    async def work(task: TaskContext) -> str:
        return "result"

    mesh.acks = False
    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("done", "a")
    mesh.refuse_next["Work"] = [(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_FOUND", None)]
    stream.end()
    again = mesh.next_stream()
    assert [request.session_key for request in mesh.registrations] == sorted(
        {request.session_key for request in mesh.registrations},
        key=[request.session_key for request in mesh.registrations].index,
    )
    assert len(mesh.registrations) == 2
    assert (again.opening.session_id, again.opening.stream_seq) == ("session-2", 1)
    assert [item.fence for item in again.opening.held] == [b"a"]


def test_a_session_ended_by_its_lease_is_registered_anew(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    agent.task("work")(lambda task: None)
    start(agent)
    mesh.next_stream().send(MeshFrame(go_away=GoAway(reason=GoAwayReason.GO_AWAY_REASON_SESSION_LOST)))
    assert mesh.next_stream().opening.session_id == "session-2"


@pytest.mark.parametrize("lost_first", [False, True])
def test_an_agent_replaced_by_another_process_does_not_fight(
    mesh: FakeMesh, agent: Agent, start: Start, lost_first: bool
) -> None:
    agent.task("work")(lambda task: None)
    running = start(agent)
    stream = mesh.next_stream()
    mesh.live_session_id = "somebody-else"
    reason = (
        GoAwayReason.GO_AWAY_REASON_SESSION_LOST if lost_first else GoAwayReason.GO_AWAY_REASON_SUPERSEDED
    )
    stream.send(MeshFrame(go_away=GoAway(reason=reason)))
    running.wait()
    assert type(running.error).__name__ == "Superseded"
    assert len(mesh.registrations) == 1


def test_joining_happens_once_and_the_key_renews_afterwards(
    mesh: FakeMesh, agent: Agent, start: Start, tmp_path: Path
) -> None:
    agent.task("work")(lambda task: None)
    first = start(agent)
    mesh.next_stream()
    first.stop()
    key = tmp_path / "state" / "default" / "worker-1" / "agent.key"
    assert key.stat().st_mode & 0o777 == 0o600
    second = Agent("worker-1", address=mesh.address)
    second.task("work")(lambda task: None)
    start(second)
    mesh.next_stream()
    assert (len(mesh.joins), mesh.renewals) == (1, 1)
    assert list(mesh.joins[0].capabilities) == ["work"]


def test_a_key_the_mesh_does_not_know_any_more_joins_again(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    agent.task("work")(lambda task: None)
    first = start(agent)
    mesh.next_stream()
    first.stop()
    mesh.known_key = None
    second = Agent("worker-1", address=mesh.address)
    second.task("work")(lambda task: None)
    start(second)
    mesh.next_stream()
    assert len(mesh.joins) == 2


def test_a_worker_that_gained_a_task_type_joins_again_for_it(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    agent.task("work")(lambda task: None)
    beyond = (grpc.StatusCode.PERMISSION_DENIED, "GRANT_EXCEEDS_CALLER", None)
    mesh.refuse_next["RegisterAgent"] = [beyond]
    start(agent)
    mesh.next_stream()
    assert (len(mesh.joins), len(mesh.registrations)) == (2, 1)


def test_a_given_token_that_allows_too_little_ends_the_agent(
    mesh: FakeMesh, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMESH_TOKEN", "given")
    agent = Agent("worker-1", address=mesh.address)
    agent.task("work")(lambda task: None)
    beyond = (grpc.StatusCode.PERMISSION_DENIED, "GRANT_EXCEEDS_CALLER", None)
    mesh.refuse_next["RegisterAgent"] = [beyond] * 5
    running = start(agent)
    running.wait()
    assert "GRANT_EXCEEDS_CALLER" in str(running.error)
    assert not mesh.joins


def test_a_token_is_renewed_in_band_when_due_and_when_asked(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    agent.task("work")(lambda task: None)
    mesh.token_lifetime_s = 0.3
    start(agent)
    stream = mesh.next_stream()
    first = stream.expect("fresh_token").token
    mesh.token_lifetime_s = 3600.0
    while stream.expect("fresh_token").token == first:
        pass
    before = mesh.renewals
    stream.send(MeshFrame(reauthenticate=Reauthenticate()))
    mesh.wait_until(lambda: mesh.renewals > before)


def test_a_token_refused_by_the_daemon_is_replaced(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    agent.task("work")(lambda task: None)
    mesh.refuse_next["Work"] = [(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", None)]
    start(agent)
    mesh.next_stream()
    assert len(set(mesh.tokens_seen)) == 2


def test_a_given_token_that_ends_ends_the_agent(
    mesh: FakeMesh, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMESH_TOKEN", "given")
    agent = Agent("worker-1", address=mesh.address)
    agent.task("work")(lambda task: None)
    running = start(agent)
    mesh.next_stream().abort(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    running.wait()
    assert "TOKEN_EXPIRED" in str(running.error)
    assert not mesh.joins


def test_a_daemon_that_says_nothing_is_left_for_a_new_stream(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    agent.task("work")(lambda task: None)
    mesh.limits.lease_ttl.FromMilliseconds(200)
    mesh.answers_beats = False
    start(agent)
    first = mesh.next_stream()
    first.wait_ended()
    mesh.answers_beats = True
    assert mesh.next_stream().opening.session_id == first.opening.session_id


def test_leaving_finishes_what_runs_and_says_bye(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    release = threading.Event()

    @agent.task("work")
    def work(task: TaskContext) -> str:
        release.wait(WAIT_S)
        return "finished"

    running = start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("accept", "a")
    agent.stop()
    assert stream.expect("slots").slots == 0
    stream.send(assign("late"))
    assert stream.expect("decline").fence == b"late"
    release.set()
    assert stream.expect("done", "a").output.inline == b"finished"
    stream.expect("bye")
    running.wait()
    assert running.error is None


def test_leaving_hands_back_what_does_not_end_in_time(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    forever = threading.Event()

    @agent.task("work")
    def work(task: TaskContext) -> None:
        forever.wait(WAIT_S)

    running = start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("accept", "a")
    agent.stop(within_s=0.0)
    stream.expect("bye")
    running.wait()
    assert running.error is None
    forever.set()


def test_an_agent_without_handlers_beats_on_the_heartbeat_stream(
    mesh: FakeMesh, agent: Agent, start: Start
) -> None:
    start(agent)
    stream = mesh.next_stream()
    assert mesh.registrations[0].spec.slots == 0
    assert stream.expect("beat").seq == 1


def test_a_blocked_user_loop_costs_no_beat(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    release = threading.Event()

    @agent.task("work")
    async def work(task: TaskContext) -> None:
        release.wait(WAIT_S)  # what no async handler should do

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a"))
    stream.expect("accept", "a")
    seqs = [stream.expect("beat").seq for _ in range(5)]
    assert seqs == sorted(seqs)
    release.set()
    stream.expect("done", "a")


def test_many_results_travel_in_few_messages(mesh: FakeMesh, start: Start, tmp_path: Path) -> None:
    agent = Agent("worker-1", slots=500, address=mesh.address, state_dir=tmp_path)

    @agent.task("work")
    async def work(task: TaskContext) -> None:
        return None

    start(agent)
    stream = mesh.next_stream()
    stream.send(*(assign(f"n{i}") for i in range(500)))
    fences = {stream.expect("done").fence for _ in range(500)}
    assert len(fences) == 500
    assert stream.batches < 50


def test_results_beyond_one_message_are_split(mesh: FakeMesh, agent: Agent, start: Start) -> None:
    @agent.task("work")
    async def work(task: TaskContext) -> bytes:
        return bytes(256 * 1024) if task.id != "task-too" else bytes(256 * 1024 + 1)

    start(agent)
    stream = mesh.next_stream()
    stream.send(*(assign(f"n{i}") for i in range(4)))
    for _ in range(4):
        assert len(stream.expect("done").output.inline) == 256 * 1024
    stream.send(assign("too"))
    fail = stream.expect("fail", "too")
    assert fail.type == "InvalidResult"
    assert "262145" in fail.message
    assert "262144" in fail.message
    assert not fail.retryable
