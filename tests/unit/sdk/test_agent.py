"""What an agent says of its set-up before it reaches the mesh."""

from __future__ import annotations

import logging
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Agent, ConfigurationError, NotAuthenticated, TaskContext
from agentmesh.connection import DEFAULT_TCP_ADDRESS
from agentmesh.errors import MeshError
from agentmesh.identity import Identity
from agentmesh.v1.agent_pb2 import AgentType
from tests.unit.sdk.virtual_clock import VirtualClock


def test_a_handler_beyond_the_capabilities_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTMESH_CAPABILITIES", "report")
    agent = Agent("worker-1", address="127.0.0.1:1", state_dir=tmp_path)
    for task_type in ("report", "nap", "*"):
        agent.task(task_type)(lambda task: None)
    with caplog.at_level(logging.WARNING, "agentmesh"):
        agent._warn_of_idle_handlers(agent._spec(1).capabilities)
    (told,) = caplog.messages
    assert "a handler of nap" in told
    assert "--capabilities report,nap" in told


def test_a_handler_without_its_task_type_is_refused_and_an_agent_without_handlers_told(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    agent = Agent("worker-1", slots=4, address="127.0.0.1:1", state_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="names its task type"):

        @agent.task  # type: ignore[arg-type]
        def report(task: TaskContext) -> None: ...

    with caplog.at_level(logging.WARNING, "agentmesh"):
        assert agent._effective_slots() == 0
    assert caplog.messages == [
        "agent worker-1 has 4 slots and no handler, so it takes no tasks: add one by @agent.task"
    ]
    agent.task("report")(lambda task: None)
    assert agent._effective_slots() == 4
    assert len(caplog.messages) == 1


def test_slots_are_those_of_deploy_unless_the_program_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slots(**given: Any) -> int:
        agent = Agent("worker-1", address="127.0.0.1:1", state_dir=tmp_path, **given)
        agent.task("nap")(lambda task: None)
        return agent._effective_slots()

    monkeypatch.setenv("AGENTMESH_SLOTS", "300")
    assert (slots(), slots(slots=7)) == (300, 7)
    for wrong in ("three", "-1", "1000000"):
        monkeypatch.setenv("AGENTMESH_SLOTS", wrong)
        with pytest.raises(ConfigurationError, match=f"AGENTMESH_SLOTS {wrong} is not between"):
            slots()


def test_run_ends_with_the_reason_and_not_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = Agent("worker-1", address="127.0.0.1:1", state_dir=tmp_path)

    async def refused() -> None:
        try:
            raise KeyError
        except KeyError as cause:
            raise NotAuthenticated("deploy it first") from cause

    monkeypatch.setattr(agent, "serve", refused)
    with pytest.raises(NotAuthenticated) as ended:
        agent.run()
    shown = "".join(traceback.format_exception(ended.value))
    assert shown.rstrip().endswith("deploy it first")
    assert "asyncio" not in shown.replace("asyncio.run(self.serve())", "")
    assert "KeyError" not in shown


class Refusing:
    """A daemon that revoked the agent and whose join token is spent."""

    async def renew_token(self, _request: object) -> None:
        raise NotAuthenticated("its identity was revoked", reason="TOKEN_REVOKED")

    async def join(self, _request: object) -> None:
        raise NotAuthenticated("the join token is used up", reason="JOIN_TOKEN_INVALID")


async def test_a_revoked_agent_says_so_and_not_only_that_its_join_token_is_spent(tmp_path: Path) -> None:
    def identity() -> Identity:
        worker = AgentType.AGENT_TYPE_WORKER
        return Identity("default", "worker-1", worker, [], tmp_path, VirtualClock(), join_token="spent")

    with pytest.raises(MeshError) as first:
        await identity().token(Refusing())  # type: ignore[arg-type]
    assert first.value.reason == "JOIN_TOKEN_INVALID"  # it makes its key, and has none that could be refused
    with pytest.raises(NotAuthenticated) as second:
        await identity().token(Refusing())  # type: ignore[arg-type]
    assert second.value.reason == "TOKEN_REVOKED"
    assert "its identity was revoked" in second.value.message
    assert "meshctl deploy" in second.value.message


def test_a_worker_started_before_meshd_finds_its_socket_and_stays_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("AGENTMESH_ADDRESS", raising=False)
    monkeypatch.setattr("agentmesh.connection.SYSTEM_SOCKET", str(tmp_path / "none"))
    agent = Agent("worker-1", state_dir=tmp_path)
    assert agent._present_target().address == DEFAULT_TCP_ADDRESS
    path = tmp_path / "agentmesh/meshd.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert agent._present_target().address == f"unix:{path}"
    path.unlink()
    # While meshd is away, no token goes to whoever listens on a port.
    assert agent._present_target().address == f"unix:{path}"


def test_who_reaches_the_socket_may_join(tmp_path: Path) -> None:
    identity = Identity("default", "a", AgentType.AGENT_TYPE_WORKER, [], tmp_path, VirtualClock())
    assert not identity.can_join
    identity.on_socket = True
    assert identity.can_join
