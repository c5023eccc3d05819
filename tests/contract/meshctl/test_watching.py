"""Commands that go on until Ctrl-C: what they show, that they come back after a break, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentmesh.v1 import agent_pb2, registry_service_pb2, scheduler_service_pb2, task_pb2, watch_pb2
from tests.contract.meshctl.conftest import Meshctl
from tests.contract.meshctl.fake_meshd import FakeMeshd


def agent_update(
    health: agent_pb2.Health.ValueType, revision: int, cause: str = ""
) -> registry_service_pb2.WatchAgentsResponse:
    agent = agent_pb2.Agent(namespace="default", health=health, health_cause=cause)
    agent.spec.agent_id = "a1"
    update = registry_service_pb2.WatchAgentsResponse(
        changes=[registry_service_pb2.AgentChange(revision=revision, agent=agent)]
    )
    update.position.epoch, update.position.revision = 1, max(1, revision)
    return update


def task_update(
    state: task_pb2.TaskState.ValueType, revision: int
) -> scheduler_service_pb2.WatchTasksResponse:
    task = task_pb2.Task(namespace="default", state=state)
    task.spec.task_id = "t1"
    if state == task_pb2.TASK_STATE_FAILED:
        task.outcome_reason = task_pb2.OUTCOME_REASON_POISON
        task.failure.type, task.failure.message = "AgentLost", "5 agents \x1b[31mdied"
    update = scheduler_service_pb2.WatchTasksResponse(
        changes=[scheduler_service_pb2.TaskChange(revision=revision, task=task)]
    )
    update.position.epoch, update.position.revision = 1, max(1, revision)
    return update


@pytest.fixture
def scripted(meshd: FakeMeshd) -> FakeMeshd:
    """A mesh with one namespace, whose streams begin with a snapshot, and break once."""
    meshd.namespaces = ["default"]
    snapshot = agent_update(agent_pb2.HEALTH_DECLARED, 0)
    snapshot.reset = watch_pb2.RESET_REASON_START
    gap = agent_update(agent_pb2.HEALTH_HEALTHY, 0)
    gap.reset = watch_pb2.RESET_REASON_EPOCH
    meshd.updates["WatchAgents"] = [
        [snapshot, agent_update(agent_pb2.HEALTH_HEALTHY, 5, "its stream is open")],
        [gap, agent_update(agent_pb2.HEALTH_LOST, 3, "it \x1b]died")],
    ]
    return meshd


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run meshctl in a process of its own; it is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_events_tells_changes_only_across_a_break_and_ends_well(scripted: FakeMeshd) -> None:
    with running("events") as process:
        first, second = lines(process, 2)
        assert first.endswith("  agent a1 in default is healthy: its stream is open")
        assert second.startswith("20")
        assert "agent a1 in default is lost: it" in second
        assert "\x1b" not in second
        process.send_signal(signal.SIGINT)
        rest, notes = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "")
    assert notes.splitlines() == [
        f"lost the connection to {scripted.address}; trying again",
        "changes in default went by unseen",
    ]
    asked = [r for r in scripted.requests if isinstance(r, registry_service_pb2.WatchAgentsRequest)]
    assert [request.after.revision for request in asked] == [0, 5]


def test_events_as_json_lines(scripted: FakeMeshd) -> None:
    with running("events", "-n", "default", "-o", "json") as process:
        first, second = (json.loads(line) for line in lines(process, 2))
    assert first["agent"]["health"] == "HEALTH_HEALTHY"
    assert second["agent"]["spec"]["agent_id"] == "a1"
    assert second["time"].endswith("+00:00")


def test_task_watch_without_a_task_follows_all(scripted: FakeMeshd) -> None:
    scripted.updates["WatchTasks"] = [
        [
            task_update(task_pb2.TASK_STATE_QUEUED, 0),
            task_update(task_pb2.TASK_STATE_QUEUED, 1),
            task_update(task_pb2.TASK_STATE_FAILED, 2),
        ]
    ]
    with running("task", "watch", "--namespace", "default") as process:
        first, second = lines(process, 2)
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=20)
    assert first.endswith("  task t1 in default is queued")
    assert second.split("  ")[1].startswith("task t1 failed (poison): AgentLost: 5 agents")
    assert "\x1b" not in second
    assert (process.returncode, notes) == (0, "")


def test_a_closed_pipe_ends_a_watch_quietly(scripted: FakeMeshd) -> None:
    with running("events") as process:
        lines(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.wait(20) == 141
        assert "Traceback" not in process.stderr.read()


def test_a_refused_watch_is_told_like_any_refusal(scripted: FakeMeshd, meshctl: Meshctl) -> None:
    import grpc

    scripted.refusals["WatchTasks"] = (
        grpc.StatusCode.PERMISSION_DENIED,
        "ACCESS_DENIED",
        "no reading of tasks",
    )
    outcome = meshctl("task", "watch", "-n", "default")
    assert (outcome.code, len(outcome.err.splitlines())) == (4, 2)


def test_status_watch_shows_again_when_agents_change(scripted: FakeMeshd) -> None:
    scripted.add_agent("default", "a1")
    with running("status", "--watch", "-o", "json") as process:
        views = [json.loads(line) for line in lines(process, 2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert [view["agents"][0]["spec"]["agent_id"] for view in views] == ["a1", "a1"]


def test_top_once_shows_throughput_and_busy_agents_first(meshd: FakeMeshd, meshctl: Meshctl) -> None:
    for name, held in (("idle", 0), ("busy", 3)):
        meshd.add_agent("production", name, slots=4).held_attempts = held
    outcome = meshctl("top", "--once", "--interval", "100ms")
    assert outcome.code == 0
    table = [line.split() for line in outcome.out.splitlines()]
    assert table[0][-1] == "ENDED/S"
    assert 100 < float(table[1][-1]) < 310
    assert [row[1] for row in table[4:]] == ["busy", "idle"]
    document = meshctl("top", "--interval", "100ms", "-o", "json").json
    assert 100 < document["ended_per_s"]["production"] < 310
    assert [agent["spec"]["agent_id"] for agent in document["agents"]] == ["busy", "idle"]


def test_top_goes_on_on_a_terminal_of_any_width(meshd: FakeMeshd, tmp_path: Path) -> None:
    meshd.add_agent("production", "busy", slots=4)
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl", "top", "--interval", "50ms"],
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    os.close(slave)
    try:
        seen = b""
        while seen.count(b"busy") < 3:
            seen += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0
    assert "Traceback" not in notes
