"""The exchange of docs/agent-protocol.md is played, line by line, and its rules that no other test shows are shown."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from agentmesh.v1 import (
    payload_pb2,
    registry_service_pb2,
    scheduler_service_pb2,
    session_pb2,
    task_pb2,
)
from meshd.domain.limits import MAX_MESSAGE_FRAMES, MAX_SLOTS
from tests.wire.mesh.conftest import HandMadeAgent, RunningMesh, refused, running_mesh

PAGE = Path(__file__).resolve().parents[3] / "docs/agent-protocol.md"


def exchange() -> list[tuple[str, str]]:
    """The lines of the exchange: > up, < down, # what happens besides."""
    text = PAGE.read_text().split("## An exchange")[1]
    block = re.search(r"```text\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    return [(line[0], line[2:]) for line in block[1].splitlines()]


def stand_in(message: Message, names: dict[bytes, bytes]) -> None:
    """Put what the mesh gave out in the place of the names that the page has for it."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                stand_in(each, names)
        elif field.name in {"fence", "keep", "resume_token"} and field.is_repeated:
            value[:] = [names[each] for each in value]
        elif field.name in {"fence", "keep", "resume_token"}:
            setattr(message, field.name, names[value])
        elif field.name == "session_id":
            message.session_id = names[value.encode()].decode()  # type: ignore[attr-defined]


def learn(shown: Message, seen: Message, names: dict[bytes, bytes]) -> None:
    """Note which fence the page calls by a new name."""
    fence: Any = getattr(shown, "fence", None)
    if fence:
        names.setdefault(fence, seen.fence)  # type: ignore[attr-defined]


def assert_shows(shown: Message, seen: Message) -> None:
    """Everything that the page shows of a frame is so."""
    for field, value in shown.ListFields():
        found = getattr(seen, field.name)
        if field.message_type is not None and not field.is_repeated:
            assert_shows(value, found)
        else:
            assert found == value, f"{field.full_name} is {found}, the page says {value}"


async def test_the_exchange_is_what_happens(mesh: RunningMesh) -> None:
    agent = HandMadeAgent(mesh.stubs(await mesh.token("counter")), "counter", ())
    await agent.register(capabilities=["word-count"], slots=1)
    session = agent.registered
    names = {b"SESSION": session.session_id.encode(), b"RESUME": session.resume_token}
    for way, text in exchange():
        if way == ">":
            frame = text_format.Parse(text, session_pb2.AgentFrame())
            stand_in(frame, names)
            if frame.HasField("open"):
                agent.call = agent.stubs.scheduler.Work(metadata=agent.stubs.metadata)
            await agent.call.write(scheduler_service_pb2.WorkRequest(frames=[frame]))
        elif way == "<":
            shown = text_format.Parse(text, session_pb2.MeshFrame())
            kind = shown.WhichOneof("frame")
            assert kind is not None
            seen = await agent.expect(kind)
            learn(getattr(shown, kind), getattr(seen, kind), names)
            stand_in(shown, names)
            assert_shows(shown, seen)
        elif text.endswith("is submitted"):
            payload = payload_pb2.Payload(inline=b"one two three")
            await mesh.submit(text.split()[0], "word-count", payload=payload)
        elif text.endswith("is cancelled"):
            request = scheduler_service_pb2.CancelTaskRequest(namespace="default", task_id=text.split()[0])
            await mesh.operator.scheduler.CancelTask(request)
        else:
            assert text.startswith("the connection breaks")
            agent.call.cancel()
    assert await agent.call.read() is grpc.aio.EOF
    ended = [(await mesh.wait(task_id)).state for task_id in ("t-1", "t-2", "t-3")]
    succeeded, cancelled = task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_CANCELLED
    assert ended == [succeeded, succeeded, cancelled]


async def test_without_features_nothing_else_is_sent(mesh: RunningMesh) -> None:
    agent = await mesh.agent("minimal", ())
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    request = scheduler_service_pb2.CancelTaskRequest(namespace="default", task_id="t1")
    request.grace.FromMilliseconds(1)
    await mesh.operator.scheduler.CancelTask(request)
    # The next frame at all: no Cancel came before.
    message = await agent.call.read()
    assert [each.WhichOneof("frame") for each in message.frames] == ["revoke"]
    assert message.frames[0].revoke.fence == fence
    await agent.register()
    assert await agent.call.read() is grpc.aio.EOF, "GoAway is for those who understand it"


async def test_what_is_not_named_is_assigned_again_with_its_fence(mesh: RunningMesh) -> None:
    agent = await mesh.agent("forgetful")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    opened = await agent.open()
    assert not opened.keep
    assert (await agent.expect("assign")).assign.fence == fence


async def test_a_result_whose_ack_was_lost_is_dropped_and_revoked_though_it_counts(mesh: RunningMesh) -> None:
    agent = await mesh.agent("deprived")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    done = session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=b"out"))
    await agent.send(done=done)
    await mesh.wait("t1")
    opened = await agent.open(
        session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RESULT_PENDING)
    )
    assert list(opened.drop) == [fence]
    await agent.send(done=done)
    assert (await agent.expect("revoke")).revoke.fence == fence
    task = await mesh.wait("t1")
    assert (task.state, task.output.inline) == (task_pb2.TASK_STATE_SUCCEEDED, b"out")


async def taken_away(mesh: RunningMesh, agent: HandMadeAgent) -> bytes:
    """Have the agent be assigned t1 and lose it to a cancel that it does not obey in time; return the fence."""
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    request = scheduler_service_pb2.CancelTaskRequest(namespace="default", task_id="t1")
    request.grace.FromMilliseconds(1)
    await mesh.operator.scheduler.CancelTask(request)
    await agent.expect("revoke")
    return fence


async def test_a_result_after_revoke_is_acknowledged_once_and_counts_for_nothing(mesh: RunningMesh) -> None:
    agent = await mesh.agent("late", slots=1)
    fence = await taken_away(mesh, agent)
    await agent.send(done=session_pb2.Done(fence=fence, output=payload_pb2.Payload(inline=b"out")))
    assert (await agent.expect("ack")).ack.fence == fence
    assert (await mesh.wait("t1")).state == task_pb2.TASK_STATE_CANCELLED
    await mesh.submit("t2")
    await agent.expect("assign")
    await agent.send(stopped=session_pb2.Stopped(fence=fence))
    assert (await agent.expect("revoke")).revoke.fence == fence


async def test_what_was_taken_away_keeps_its_slot_while_it_is_named_as_running(mesh: RunningMesh) -> None:
    agent = await mesh.agent("busy", (), slots=1)
    fence = await taken_away(mesh, agent)
    opened = await agent.open(session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RUNNING))
    assert list(opened.drop) == [fence]
    await mesh.submit("t2")
    await agent.send(stopped=session_pb2.Stopped(fence=fence))
    # In this order: nothing was assigned before the handler had ended.
    assert (await agent.next()).ack.fence == fence
    assert (await agent.next()).assign.task_id == "t2"


async def test_a_new_session_has_nothing_of_the_old_one(mesh: RunningMesh) -> None:
    agent = await mesh.agent("reborn")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    await agent.register()
    opened = await agent.open(session_pb2.HeldAttempt(fence=fence, phase=session_pb2.HELD_PHASE_RUNNING))
    assert list(opened.drop) == [fence]


async def free_slots(mesh: RunningMesh, agent_id: str) -> int:
    request = registry_service_pb2.GetAgentRequest(namespace="default", agent_id=agent_id)
    count: int = (await mesh.operator.registry.GetAgent(request)).agent.free_slots
    return count


async def test_slots_that_an_open_leaves_out_are_those_said_last_until_meshd_restarts(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        leaver = await mesh.agent("leaver", slots=2)
        await leaver.send(slots=session_pb2.Slots(slots=-1))
        await leaver.open()
        assert await free_slots(mesh, "leaver") == 0
    async with running_mesh(tmp_path) as mesh:
        returned = HandMadeAgent(mesh.stubs(await mesh.token("leaver")), "leaver", ())
        returned.registered, returned.stream_seq = leaver.registered, leaver.stream_seq
        await returned.open()
        assert await free_slots(mesh, "leaver") == 2
        returned.call.cancel()


async def test_a_message_of_too_many_frames_ends_its_stream_and_not_the_session(mesh: RunningMesh) -> None:
    agent = await mesh.agent("chatty")
    beat = session_pb2.AgentFrame(slots=session_pb2.Slots(slots=1))
    await agent.call.write(scheduler_service_pb2.WorkRequest(frames=[beat] * MAX_MESSAGE_FRAMES))
    await agent.call.write(scheduler_service_pb2.WorkRequest(frames=[beat] * (MAX_MESSAGE_FRAMES + 1)))
    assert await refused(agent.expect("ack")) == "TOO_LARGE"
    assert str(MAX_MESSAGE_FRAMES) in await agent.call.details()
    await agent.open()
    await mesh.submit("t1")
    await agent.expect("assign")


async def test_the_first_message_of_a_stream_has_the_same_limits(mesh: RunningMesh) -> None:
    agent = await mesh.agent("chatty")
    held = [session_pb2.HeldAttempt(fence=b"f", phase=session_pb2.HELD_PHASE_RUNNING)]
    await agent.open(*held * MAX_SLOTS)
    assert await refused(agent.open(*held * (MAX_SLOTS + 1))) == "TOO_LARGE"
    agent.call = agent.stubs.scheduler.Work(metadata=agent.stubs.metadata)
    opening = session_pb2.AgentFrame(open=session_pb2.Open())
    await agent.call.write(scheduler_service_pb2.WorkRequest(frames=[opening] * (MAX_MESSAGE_FRAMES + 1)))
    assert await refused(agent.call.read()) == "TOO_LARGE"


async def test_a_stream_that_is_not_opened_in_time_ends_and_the_session_does_not(
    mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await mesh.agent("late")
    monkeypatch.setattr("meshd.wire.services.sessions.RECEIVE_S", 0.1)
    silent = agent.stubs.scheduler.Work(metadata=agent.stubs.metadata)
    async with asyncio.timeout(10):
        assert await refused(silent.read()) == "WAIT_TIMEOUT"
    await agent.open()
    await mesh.submit("t1")
    await agent.expect("assign")
