"""A meshd as a process, from ready to its end: what watchers, the service manager and the shell see."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    namespace_service_pb2,
    namespace_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)

START_TIMEOUT_S = 20

# Its commits fail from the moment on at which the directory holds a file of this name.
BAD_DISK = "bad-disk"
FAILING_DISK = """
import os, sys
from meshd.ports.store import StorageError
from meshd.daemon import SqliteStore
commit = SqliteStore.commit
def failing(self, batch):
    if os.path.exists(os.path.join(os.path.dirname(os.environ["NOTIFY_SOCKET"]), "bad-disk")):
        raise StorageError("the disk is gone; see to it, then start meshd again")
    return commit(self, batch)
SqliteStore.commit = failing
from meshd.__main__ import main
sys.exit(main())
"""

# Building its state and listening take long.
SLOW_START = """
import sys, time
from meshd import daemon
listen_socket = daemon.wire.listen_socket
def slow(*arguments):
    time.sleep(1.0)
    return listen_socket(*arguments)
daemon.wire.listen_socket = slow
from meshd.__main__ import main
sys.exit(main())
"""

# A person presses Ctrl-C during its start.
INTERRUPTED_START = """
import os, signal, sys
from meshd import daemon
def interrupted(function):
    def run(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)
    return run
if sys.argv.pop(1) == "loading":
    daemon.SqliteStore.load = interrupted(daemon.SqliteStore.load)
else:
    daemon.wire.listen_socket = interrupted(daemon.wire.listen_socket)
from meshd.__main__ import main
sys.exit(main())
"""

AS_UNDER_NOHUP = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from meshd.__main__ import main
sys.exit(main())
"""

# Work beside the calls fails, by a bug.
BROKEN_ASIDE = """
import sys
from meshd.engine.known_tasks import KnownTasks
async def learn(self):
    raise KeyError("a bug")
KnownTasks.learn = learn
from meshd.__main__ import main
sys.exit(main())
"""

ON_A_TERMINAL = """
import sys
from meshd.ops import process
process.has_terminal = lambda: True
from meshd.__main__ import main
sys.exit(main())
"""
ON_NO_TERMINAL = ON_A_TERMINAL.replace("True", "False")

ENDS_BY_A_LOOK_AT_THREADS = """
import os, signal, sys
from meshd.ops.other_threads import OtherThreads
def look(self, busy_share):
    OtherThreads.look = lambda self, busy_share: None
    os.kill(os.getpid(), signal.SIGTERM)
OtherThreads.look = look
from meshd.__main__ import main
sys.exit(main())
"""


class Meshd:
    """A meshd on free ports, with everything it logged."""

    def __init__(self, directory: Path, *program: str) -> None:
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "notify"))
        self.manager.settimeout(START_TIMEOUT_S)
        self.socket_path = directory / "run/meshd.sock"
        settings = [
            "--data-dir",
            str(directory / "data"),
            "--socket",
            str(self.socket_path),
            "--log-format",
            "json",
        ]
        settings += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
        environment["NOTIFY_SOCKET"] = str(directory / "notify")
        self.process = subprocess.Popen(
            [sys.executable, *(program or ("-m", "meshd")), *settings],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_ready(self) -> None:
        assert self.manager.recv(64) == b"READY=1"

    def channel(self) -> Any:
        return grpc.insecure_channel(f"unix:{self.socket_path}")

    def end(self, timeout_s: float) -> tuple[int, list[dict[str, Any]]]:
        _, log = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


def started(meshd: Meshd) -> Iterator[Meshd]:
    try:
        meshd.wait_ready()
        yield meshd
    finally:
        if meshd.process.poll() is None:
            meshd.process.kill()
            meshd.process.wait()
        assert meshd.process.stderr is not None
        meshd.process.stderr.close()
        meshd.manager.close()


@pytest.fixture
def meshd(tmp_path: Path) -> Iterator[Meshd]:
    yield from started(Meshd(tmp_path))


@pytest.fixture
def meshd_on_a_bad_disk(tmp_path: Path) -> Iterator[Meshd]:
    yield from started(Meshd(tmp_path, "-c", FAILING_DISK))


def watch(channel: Any) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)


NEW = "a new database was made"
ENDED_BY_A_SIGNAL = [
    NEW,
    "meshd ready",
    "meshd is told to stop",
    "meshd stops",
    "meshd stopped",
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(meshd: Meshd, number: signal.Signals) -> None:
    with meshd.channel() as channel:
        states = watch(channel)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        start = time.monotonic()
        meshd.process.send_signal(number)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, log = meshd.end(5)
        assert time.monotonic() - start < 5
        states.cancel()
    assert code == 0
    assert meshd.manager.recv(64) == b"STOPPING=1"
    assert not meshd.socket_path.exists()
    assert [line["event"] for line in log] == ENDED_BY_A_SIGNAL
    _, ready, told, *_ = log
    assert told["signal"] == number.name
    assert ready["socket"] == f"unix:{meshd.socket_path}"
    assert not ready["listen"].endswith(":0")
    # `make test-compiled` puts its copy before the sources.
    assert ready["compiled"] == ("build/compiled" in os.environ.get("PYTHONPATH", ""))


@pytest.mark.parametrize(
    ("during", "code", "events"),
    [
        ("loading", 130, [NEW, "meshd is told to stop"]),
        ("listening", 0, [NEW, "meshd is told to stop", "meshd ready", "meshd stops", "meshd stopped"]),
    ],
)
def test_ctrl_c_during_the_start_ends_it_in_good_order(
    tmp_path: Path, during: str, code: int, events: list[str]
) -> None:
    meshd = Meshd(tmp_path, "-c", INTERRUPTED_START, during)
    try:
        ended, log = meshd.end(START_TIMEOUT_S)
    finally:
        meshd.process.kill()
        meshd.manager.close()
    assert (ended, [line["event"] for line in log]) == (code, events)


def test_a_closed_terminal_ends_it_in_good_order(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", ON_A_TERMINAL)):
        meshd.process.send_signal(signal.SIGHUP)
        code, log = meshd.end(5)
        assert (code, log[2]["signal"]) == (0, "SIGHUP")


def test_a_daemon_is_told_by_sighup_to_read_its_certificate_again(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", ON_NO_TERMINAL)):
        meshd.process.send_signal(signal.SIGHUP)
        with meshd.channel() as channel:
            assert next(watch(channel)).status == health_pb2.HealthCheckResponse.SERVING
        meshd.process.send_signal(signal.SIGTERM)
        code, log = meshd.end(5)
        assert code == 0
        assert "none is set; to stop meshd send SIGTERM" in log[2]["event"]


def test_what_shall_outlive_its_terminal_does(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", AS_UNDER_NOHUP)):
        meshd.process.send_signal(signal.SIGHUP)
        with meshd.channel() as channel:
            assert next(watch(channel)).status == health_pb2.HealthCheckResponse.SERVING
        assert meshd.process.poll() is None


def test_a_slow_start_is_no_stall(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", SLOW_START)):
        with meshd.channel() as channel:
            assert next(watch(channel)).status == health_pb2.HealthCheckResponse.SERVING
        meshd.process.send_signal(signal.SIGTERM)
        _, log = meshd.end(5)
        assert [line["event"] for line in log] == ENDED_BY_A_SIGNAL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has batch threads")
def test_it_looks_whether_other_threads_must_stand_back(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", ENDS_BY_A_LOOK_AT_THREADS)):
        code, _ = meshd.end(10)
        assert code == 0


def test_a_storage_failure_ends_it_unanswered_and_with_its_own_code(
    meshd_on_a_bad_disk: Meshd, tmp_path: Path
) -> None:
    meshd = meshd_on_a_bad_disk
    with meshd.channel() as channel:
        states = watch(channel)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        (tmp_path / BAD_DISK).touch()
        stub = namespace_service_pb2_grpc.NamespaceServiceStub(channel)
        request = namespace_service_pb2.CreateNamespaceRequest(name="lost")
        with pytest.raises(grpc.RpcError):
            stub.CreateNamespace(request, timeout=10)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, log = meshd.end(5)
        states.cancel()
    assert code == 3
    failure = next(line for line in log if line["level"] == "critical")
    assert failure["error"].startswith("the disk is gone")


def test_work_beside_the_calls_that_fails_ends_it(tmp_path: Path) -> None:
    for meshd in started(Meshd(tmp_path, "-c", BROKEN_ASIDE)):
        code, log = meshd.end(10)
        assert code == 3
        failure = next(line for line in log if line["level"] == "critical")
        assert "work beside the calls failed: KeyError('a bug')" in failure["error"]


def test_a_storage_failure_at_the_very_end_has_its_own_code_too(
    meshd_on_a_bad_disk: Meshd, tmp_path: Path
) -> None:
    meshd = meshd_on_a_bad_disk
    with meshd.channel() as channel:
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)

        def be_refused() -> None:
            with pytest.raises(grpc.RpcError) as caught:
                registry.ListDrains(
                    registry_service_pb2.ListDrainsRequest(),
                    metadata=(("authorization", "Bearer none"),),
                    timeout=10,
                )
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

        # Refusals are counted; the list writes them down, and the next are written ten seconds later or at the end.
        be_refused()
        auth.ListAuditEvents(auth_service_pb2.ListAuditEventsRequest(), timeout=10)
        (tmp_path / BAD_DISK).touch()
        be_refused()
        meshd.process.send_signal(signal.SIGTERM)
        code, log = meshd.end(5)
    assert code == 3
    assert [line["event"] for line in log][-2:] == ["the storage failed; meshd stops", "meshd stopped"]


def test_a_second_meshd_leaves_the_first_alone(meshd: Meshd, tmp_path: Path) -> None:
    arguments = ["--data-dir", str(tmp_path / "other"), "--socket", str(meshd.socket_path)]
    arguments += ["--listen", "127.0.0.1:0", "--http-listen", ""]
    second = subprocess.run(
        [sys.executable, "-m", "meshd", *arguments],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert second.returncode == 2
    assert "another process, probably a meshd, serves the socket" in second.stderr
    with meshd.channel() as channel:
        assert next(watch(channel)).status == health_pb2.HealthCheckResponse.SERVING
