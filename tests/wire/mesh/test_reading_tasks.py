"""Who sees what is in a task: its input, its output as it comes, the text of its progress, its result."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.v1 import payload_pb2, session_pb2, task_pb2
from agentmesh.v1 import scheduler_service_pb2 as pb
from tests.wire.mesh.conftest import RunningMesh, Stubs

RESULT = payload_pb2.Payload(inline=b"secret result")


class Watching:
    """What one caller is shown of a task."""

    def __init__(self, stubs: Stubs) -> None:
        request = pb.WatchTaskRequest(namespace="default", task_id="t1")
        self._events: Any = aiter(stubs.scheduler.WatchTask(request, metadata=stubs.metadata))

    async def next(self) -> pb.WatchTaskResponse:
        """Return the next event."""
        event: pb.WatchTaskResponse = await anext(self._events)
        return event

    async def rest(self) -> list[pb.WatchTaskResponse]:
        """Return the events that are left, until the task's end."""
        return [event async for event in self._events]


def said(events: list[pb.WatchTaskResponse]) -> tuple[list[bytes], list[tuple[float, str]], bytes]:
    """Return output, progress and the final result of a watch."""
    return (
        [e.output.chunk for e in events if e.HasField("output")],
        [(e.progress.fraction, e.progress.message) for e in events if e.HasField("progress")],
        events[-1].task.output.inline,
    )


async def test_a_worker_watches_the_output_of_its_own_attempts_only(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=1)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    watches = [
        Watching(mesh.operator),
        Watching(agent.stubs),
        Watching(mesh.stubs(await mesh.token("a2"))),
    ]
    firsts = [(await watch.next()).task for watch in watches]
    assert [task.spec.payload.inline for task in firsts] == [b"in", b"in", b""]
    await agent.send(progress=session_pb2.Progress(fence=fence, seq=1, fraction=0.5, message="secret text"))
    await agent.send(output=session_pb2.Output(fence=fence, seq=1, chunk=b"secret output"))
    await agent.send(done=session_pb2.Done(fence=fence, output=RESULT))
    everything = ([b"secret output"], [(0.5, "secret text")], b"secret result")
    seen = [said(await watch.rest()) for watch in watches]
    assert seen == [everything, everything, ([], [(0.5, "")], b"")]


async def test_who_held_a_task_before_does_not_see_what_its_next_holder_says(mesh: RunningMesh) -> None:
    first = await mesh.agent("a1", slots=1)
    await mesh.submit("t1")
    fence = (await first.expect("assign")).assign.fence
    second = await mesh.agent("a2", slots=1)
    watches = {agent.agent_id: Watching(agent.stubs) for agent in (first, second)}
    for watch in watches.values():
        await watch.next()
    # In one message: by the time its output is shown, the task is the other agent's.
    frames = [
        session_pb2.AgentFrame(output=session_pb2.Output(fence=fence, seq=1, chunk=b"of a1")),
        session_pb2.AgentFrame(decline=session_pb2.Decline(fence=fence, reason="full")),
    ]
    await first.call.write(pb.WorkRequest(frames=frames))
    again = (await second.expect("assign")).assign
    assert again.attempt == 2
    await second.send(output=session_pb2.Output(fence=again.fence, seq=1, chunk=b"of a2"))
    await second.send(done=session_pb2.Done(fence=again.fence, output=RESULT))
    seen = {name: await watch.rest() for name, watch in watches.items()}
    pieces = {
        name: [(e.output.attempt, e.output.chunk) for e in events if e.HasField("output")]
        for name, events in seen.items()
    }
    assert pieces == {"a1": [(1, b"of a1")], "a2": [(2, b"of a2")]}
    assert [events[-1].task.output.inline for events in seen.values()] == [b"", b"secret result"]


@pytest.mark.parametrize(
    ("scope", "data", "results"),
    [
        ((), True, True),
        (("read:*",), True, True),
        (("read:tasks",), False, False),
        (("read:tasks", "read:data"), True, False),
        (("read:tasks", "read:results"), False, True),
        (("read:tasks", "write:results"), False, False),
    ],
    ids=("none", "read-all", "tasks", "data", "results", "write"),
)
@pytest.mark.parametrize("kind", ["MONITOR", "WORKER"])
async def test_a_scope_says_what_is_read_of_a_task(
    mesh: RunningMesh, kind: str, scope: tuple[str, ...], data: bool, results: bool
) -> None:
    agent = await mesh.agent("a1", slots=1)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    # A worker of the same name is the holder.
    reader = mesh.stubs(await mesh.token("a1" if kind == "WORKER" else "eye", kind, scope=scope))
    request = pb.GetTaskRequest(task_id="t1")
    watch = Watching(reader)
    assert (await watch.next()).task.spec.payload.inline == (b"in" if data else b"")
    await agent.send(progress=session_pb2.Progress(fence=fence, seq=1, fraction=0.5, message="half"))
    assert (await watch.next()).progress.message == ("half" if results else "")
    running = (await reader.scheduler.GetTask(request, metadata=reader.metadata)).task
    assert running.progress.fraction == 0.5
    assert running.progress.message == ("half" if results else "")
    await agent.send(output=session_pb2.Output(fence=fence, seq=1, chunk=b"piece"))
    await agent.send(done=session_pb2.Done(fence=fence, output=RESULT))
    ended = (
        (await watch.rest()),
        (await reader.scheduler.GetTask(request, metadata=reader.metadata)).task,
        (await reader.scheduler.WaitTask(pb.WaitTaskRequest(task_id="t1"), metadata=reader.metadata)).task,
    )
    assert [e.output.chunk for e in ended[0] if e.HasField("output")] == ([b"piece"] if results else [])
    for task in (ended[0][-1].task, *ended[1:]):
        assert task.state == task_pb2.TASK_STATE_SUCCEEDED
        assert task.spec.payload.inline == (b"in" if data else b"")
        assert task.output.inline == (b"secret result" if results else b"")


async def test_lists_do_not_carry_the_text_of_progress(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=1)
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    watch = Watching(mesh.operator)
    await watch.next()
    await agent.send(progress=session_pb2.Progress(fence=fence, seq=1, fraction=0.5, message="half"))
    assert (await watch.next()).progress.message == "half"
    listed = (await mesh.operator.scheduler.ListTasks(pb.ListTasksRequest(namespace="default"))).tasks
    workload = await mesh.operator.scheduler.GetWorkload(pb.GetWorkloadRequest(namespace="default"))
    for task in (*listed, *workload.workloads[0].held):
        assert (task.progress.fraction, task.progress.message) == (0.5, "")
