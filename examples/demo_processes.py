"""The demo's processes: one meshd and its workers, in a folder of their own. None of them outlives the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_TIMEOUT_S = 10.0


class Processes:
    """Starts meshd and workers, and kills them with SIGKILL where the demo wants to see what happens then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"unix:{folder}/meshd.sock"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_meshd(self) -> None:
        """Starts meshd; it serves the operator socket only, so the demo meets no other mesh on this host."""
        self._start(
            "meshd",
            *("-m", "meshd", "--data-dir", str(self._folder / "data")),
            *("--socket", str(self._folder / "meshd.sock"), "--listen", "", "--http-listen", ""),
        )

    def start_worker(self, agent_id: str) -> None:
        """Starts a worker; on this host it needs neither a token nor a declaration."""
        self._start(
            agent_id,
            *("-m", "examples.demo_worker"),
            AGENTMESH_ADDRESS=self.address,
            AGENTMESH_AGENT_ID=agent_id,
            AGENTMESH_STATE_DIR=str(self._folder / "agents"),
        )

    def kill(self, name: str) -> None:
        """Ends a process at once: kill -9."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def has_ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines a process wrote."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])

    def _start(self, name: str, *arguments: str, **environment: str) -> None:
        # No setting from outside reaches the demo's processes.
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("AGENTMESH_", "MESHD_"))
        }
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                env={**clean, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"
