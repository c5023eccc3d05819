"""A mesh in which something is about to go wrong, and the eyes of the person in front of it.

Rule: what is shown is what a shell would show, with the places of the test replaced by those of a real host.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from agentmesh.v1 import (
    auth_service_pb2_grpc,
    namespace_service_pb2_grpc,
    registry_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    task_pb2,
)
from tests.faults.meshd_process import MeshdProcess, clean_environment, free_port

TIMEOUT_S = 30


@dataclass(frozen=True)
class Seen:
    """One command and what it left in front of the person who typed it."""

    command: str
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"$ {self.command}\n{self.out}{self.err}(exit code {self.code})"

    def must_be_clear(self) -> Seen:
        """What went wrong in one line and the next step in another, nothing else; returns itself."""
        assert self.code not in (0, 1, 70), self
        assert not self.out, self
        what, next_step = self.err.splitlines()
        assert re.match(r"((error|meshd): |interrupted; )\S", what), self
        assert re.match(r" *next: +\S", next_step), self
        assert "Traceback" not in self.err
        return self


class Stubs:
    """Blocking stubs, for what cannot be typed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.namespaces = namespace_service_pb2_grpc.NamespaceServiceStub(channel)


class House:
    """A folder with a meshd where meshctl looks first, and a task that must outlive every mistake."""

    def __init__(
        self,
        folder: Path,
        module: str = "meshd",
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        **env: Any,
    ) -> None:
        self.folder = folder
        (folder / "agentmesh").mkdir()
        self.meshd = MeshdProcess(
            folder,
            module=module,
            arguments=arguments,
            socket_path=folder / "agentmesh" / "meshd.sock",
            **env,
        )
        self.meshd._command[:0] = before
        self._channel = grpc.insecure_channel(self.meshd.address)
        self.stubs = Stubs(self._channel)

    def close(self) -> None:
        self._channel.close()
        self.meshd.stop()

    def keep_a_task(self) -> None:
        """Have a task acknowledged."""
        self.submit("kept", "nobody-takes-this")

    def submit(self, task_id: str, task_type: str) -> None:
        spec = task_pb2.TaskSpec(task_id=task_id, task_type=task_type)
        request = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
        self.stubs.scheduler.SubmitTask(request, timeout=TIMEOUT_S, wait_for_ready=True)

    def must_have_lost_nothing(self) -> None:
        """The mesh serves, and the task is as it was."""
        request = scheduler_service_pb2.GetTaskRequest(namespace="default", task_id="kept")
        task = self.stubs.scheduler.GetTask(request, timeout=TIMEOUT_S, wait_for_ready=True).task
        assert task.state == task_pb2.TASK_STATE_QUEUED

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "XDG_RUNTIME_DIR": str(self.folder),
            "XDG_CONFIG_HOME": f"{self.folder}/config",
            "COLUMNS": "110",
        }
        return clean_environment(**own, **more)

    def meshctl(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> Seen:
        """Run meshctl, after `before`, with more in the environment."""
        command = [*before, sys.executable, "-m", "meshctl", *arguments]
        done = self._run(command, self.environment(**environment))
        return self.seen(["meshctl", *arguments], done)

    def start_meshd(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> Seen:
        """Run another meshd, which is expected to end by itself; addresses not given are its own."""
        typed = list(arguments)
        own = {
            "--data-dir": str(self.folder / "other"),
            "--socket": str(self.folder / "other.sock"),
            "--listen": f"127.0.0.1:{free_port()}",
            "--http-listen": "",
        }
        added = [each for name, value in own.items() if name not in typed for each in (name, value)]
        command = [*before, sys.executable, "-m", "meshd", *arguments, *added]
        environment.setdefault("MESHD_LOG_LEVEL", "warning")  # What it did before it ended is not shown.
        return self.seen(["meshd", *arguments], self._run(command, self.environment(**environment)))

    def seen(self, typed: Sequence[str], done: subprocess.CompletedProcess[str]) -> Seen:
        return Seen(
            self.as_on_a_host(shlex.join(typed)),
            done.returncode,
            self.as_on_a_host(done.stdout),
            self.as_on_a_host(done.stderr),
        )

    def as_on_a_host(self, text: str) -> str:
        """The places of the test, as they are called on a real host."""
        for place, name in (
            (str(self.meshd.socket_path), "/run/user/1000/agentmesh/meshd.sock"),
            (str(self.meshd.data_dir), "/var/lib/meshd"),
            (self.meshd.tcp_address, "127.0.0.1:7600"),
            (str(self.folder), "/home/ada"),
        ):
            text = text.replace(place, name)
        text = re.sub(r"pid \d+", "pid 4711", text)
        return re.sub(r"\bt-[0-9a-f]{32}\b", "t-4f2a", text)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start meshctl and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "meshctl", *arguments],
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self, typed: Sequence[str], process: subprocess.Popen[str]) -> Seen:
        """Wait for the end of a command that was started."""
        out, err = process.communicate(timeout=TIMEOUT_S)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        return self.seen(["meshctl", *typed], done)

    def interrupted(self, typed: Sequence[str], process: subprocess.Popen[str]) -> Seen:
        """Press Ctrl-C."""
        process.send_signal(signal.SIGINT)
        return self.finished(typed, process)

    @staticmethod
    def _run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
