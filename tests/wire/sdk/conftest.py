"""A scripted daemon, and agents that run in threads of their own until the test ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentmesh import Agent
from tests.wire.sdk.fake_mesh import FakeMesh


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[FakeMesh]:
    fake = FakeMesh(f"unix:{tmp_path}/m.sock").start()
    yield fake
    fake.stop()


class RunningAgent:
    """An agent in a thread of its own; `error` is how it ended."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.agent.run()
        except BaseException as error:  # noqa: BLE001 - kept for the test
            self.error = error

    def wait(self, timeout_s: float = 10.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the agent goes on"

    def stop(self) -> None:
        self.agent.stop(within_s=0.0)
        self.wait()


@pytest.fixture
def start(mesh: FakeMesh, tmp_path: Path) -> Iterator[Callable[[Agent], RunningAgent]]:
    running: list[RunningAgent] = []

    def begin(agent: Agent) -> RunningAgent:
        running.append(RunningAgent(agent))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def agent(mesh: FakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setenv("AGENTMESH_STATE_DIR", str(tmp_path / "state"))
    return Agent("worker-1", slots=4, address=mesh.address)
