"""Processes for tests and benchmarks: a meshd on a folder of its own, and whatever runs against it.

Rule: a process is ended by its own id, and none outlives its `with` block. meshd says itself when it is ready
(sd_notify), so nobody sleeps and hopes. What a process wrote is shown when its block ends with an error.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_LOG_TAIL_LINES = 30


def clean_environment(**additional: str) -> dict[str, str]:
    """The environment without any setting of a mesh outside of the test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AGENTMESH_", "MESHD_"))}
    return {**kept, **additional}


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ChildProcess:
    """A process that can be started, killed, frozen and thawed. Use it as a context manager."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        processors: set[int] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._environment = dict(environment or {})
        self._processors = processors
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def python(
        cls, name: str, module: str, folder: Path, *arguments: str, **environment: str
    ) -> ChildProcess:
        """A Python module of this checkout as a process."""
        return cls(name, [sys.executable, "-m", module, *arguments], folder, environment)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(f"--- the end of the log of {self.name}:\n{self.log_tail()}", file=sys.stderr)

    @property
    def pid(self) -> int:
        """Its id. It must have been started."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """True from the start to the end of the process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=clean_environment(**self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the test alone
            )
        if self._processors:
            os.sched_setaffinity(self._process.pid, self._processors)

    def kill(self) -> None:
        """Ends it at once: kill -9."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self) -> None:
        """Asks it to end: SIGTERM."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Stops it in its tracks (SIGSTOP); returns when every thread stands."""
        self._signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self._signal(signal.SIGCONT)

    def wait(self, timeout_s: float) -> int:
        """Waits for its end and returns its exit code."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """Ends it in good order, or by force when it does not go."""
        if self._process is None or not self.running:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> str:
        """The last lines it wrote."""
        if not self.log.exists():
            return "(it wrote nothing)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])

    def cpu_s(self) -> float:
        """Processor time it has used, in seconds."""
        # The name in parentheses may hold anything; after it come state and, 11 fields on, the two times.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)


class MeshdProcess(ChildProcess):
    """A meshd on `folder`; it keeps its addresses over restarts. Started means ready. `before` precedes its command."""

    def __init__(
        self,
        folder: Path,
        *,
        module: str = "meshd",
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        socket_path: Path | None = None,
        processors: set[int] | None = None,
        **environment: str,
    ) -> None:
        self.socket_path = socket_path or folder / "meshd.sock"
        self.data_dir = folder / "data"
        #: The operator socket: calls without a token are the local operator's.
        self.address = f"unix:{self.socket_path}"
        #: The TCP listener: calls need a token.
        self.tcp_address = f"127.0.0.1:{free_port()}"
        self._notify_path = folder / "notify.sock"
        command = [
            *before,
            *(sys.executable, "-m", module),
            *("--data-dir", str(self.data_dir), "--socket", str(self.socket_path)),
            *("--listen", self.tcp_address, "--http-listen", ""),
            *arguments,
        ]
        environment = {"NOTIFY_SOCKET": str(self._notify_path), **environment}
        super().__init__("meshd", command, folder, environment, processors=processors)

    def start(self) -> None:
        """Starts meshd and waits until it serves. Raises RuntimeError when it does not."""
        self._notify_path.unlink(missing_ok=True)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(self._notify_path))
            notified.settimeout(0.25)
            super().start()
            while time.monotonic() < deadline_s and self.running:
                try:
                    if notified.recv(4096) == b"READY=1":
                        return
                except TimeoutError:
                    continue
        state = "is not ready" if self.running else f"ended with code {self.wait(0)}"
        self.kill()
        raise RuntimeError(f"meshd {state}; its log ends:\n{self.log_tail()}")

    def is_writing(self) -> bool:
        """True when one of its threads is inside a write or sync of its database: a commit is in flight.

        Meaningful while meshd is frozen. A commit that is still being prepared in memory is not seen.
        """
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            number, _, arguments = (thread / "syscall").read_text().partition(" ")
            if number not in _WRITING_CALLS:
                continue
            descriptor = int(arguments.split()[0], 16)
            try:
                target = str(Path(f"/proc/{self.pid}/fd/{descriptor}").readlink())
            except OSError:
                continue
            if target.startswith(str(self.data_dir)):
                return True
        return False


#: write, pwrite64, fsync and fdatasync, by number.
_WRITING_CALLS = {"aarch64": {"64", "68", "82", "83"}}.get(os.uname().machine, {"1", "18", "74", "75"})
