"""However a handler ends, the mesh is told and the slot is free; against a scripted daemon over real gRPC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentmesh import Agent, Fail, TaskContext
from tests.wire.sdk.conftest import RunningAgent
from tests.wire.sdk.fake_mesh import FakeMesh, assign

Start = Callable[[Agent], RunningAgent]


@pytest.mark.parametrize("task_type", ["sync", "async"])
def test_no_value_and_no_error_of_a_handler_costs_a_slot(
    mesh: FakeMesh, start: Start, tmp_path: Path, task_type: str
) -> None:
    agent = Agent("worker-1", slots=1, address=mesh.address, state_dir=tmp_path)

    def end(fence: str) -> str:
        if fence == "task-text":
            return "file-\udcff"  # as os.fsdecode makes of a name that is not UTF-8
        if fence == "task-error":
            raise Fail(404, "not found")  # type: ignore[arg-type]
        return "fine"

    @agent.task("sync")
    def sync_handler(task: TaskContext) -> str:
        return end(task.id)

    @agent.task("async")
    async def async_handler(task: TaskContext) -> str:
        return end(task.id)

    start(agent)
    stream = mesh.next_stream()
    for fence, kind in (("text", "InvalidResult"), ("error", "404")):
        stream.send(assign(fence, task_type))
        assert stream.expect("fail", fence).type == kind
    stream.send(assign("next", task_type))
    stream.expect("done", "next")


@pytest.mark.parametrize("task_type", ["sync", "async"])
def test_a_handler_that_calls_exit_fails_its_attempt_and_not_its_agent(
    mesh: FakeMesh, agent: Agent, start: Start, task_type: str
) -> None:
    @agent.task("sync")
    def sync_handler(task: TaskContext) -> None:
        sys.exit(3)

    @agent.task("async")
    async def async_handler(task: TaskContext) -> None:
        sys.exit(3)

    start(agent)
    stream = mesh.next_stream()
    stream.send(assign("a", task_type), assign("b", task_type))
    for fence in ("a", "b"):
        fail = stream.expect("fail", fence)
        assert (fail.type, fail.message, fail.retryable) == ("SystemExit", "3", True)
