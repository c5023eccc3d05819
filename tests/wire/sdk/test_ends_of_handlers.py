"""However a handler ends, the mesh is told and the slot is free; against a scripted daemon over real gRPC."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from agentmesh import Agent, Fail, TaskContext
from tests.wire.sdk.conftest import RunningAgent
from tests.wire.sdk.fake_mesh import FakeMesh, assign

Start = Callable[[Agent], RunningAgent]
WAIT_S = 10.0


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


@pytest.fixture
def log() -> Iterator[SimpleQueue[logging.LogRecord]]:
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = logging.handlers.QueueHandler(records)
    logging.getLogger("agentmesh").addHandler(handler)
    yield records
    logging.getLogger("agentmesh").removeHandler(handler)


@pytest.mark.parametrize("task_type", ["sync", "async"])
def test_the_log_of_an_agent_shows_where_a_handler_failed(
    mesh: FakeMesh, agent: Agent, start: Start, log: SimpleQueue[logging.LogRecord], task_type: str
) -> None:
    @agent.task("sync")
    def sync_handler(task: TaskContext) -> None:
        raise ValueError("bad luck")

    @agent.task("async")
    async def async_handler(task: TaskContext) -> None:
        raise ValueError("bad luck")

    start(agent)
    mesh.next_stream().send(assign("a", task_type))
    told = log.get(timeout=WAIT_S).getMessage()
    assert told.startswith("task task-a attempt 1: failed by ValueError: bad luck")
    assert f"in {task_type}_handler" in told
