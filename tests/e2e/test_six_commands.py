"""The six commands, verbatim and in their order, against a fresh meshd with no configuration at all."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from tests.faults.meshd_process import ChildProcess, MeshdProcess, clean_environment

DEPLOY = (
    'deploy --agent-id worker-1 --agent-name "Task Worker" --agent-type worker --namespace production '
    '--capabilities "task-execution,data-processing" --port 3000'
)
STATUS = "status --namespace production --health healthy"
EXECUTE = (
    'execute --task-id task-001 --task-type data-processing --payload \'{"data": "example"}\' '
    "--priority high --timeout 300000"
)
DISCOVER = "discover --namespace production --agent-type worker --capability task-execution"
AUTH = 'auth --agent-id worker-1 --agent-type worker --namespace production --capabilities "task-execution"'
WORKLOAD = "workload --agent-id worker-1"


class Shell:
    """Runs meshctl as a person on the mesh's host would: only XDG_RUNTIME_DIR tells where the socket is."""

    def __init__(self, runtime_dir: Path) -> None:
        self.environment = clean_environment(
            XDG_RUNTIME_DIR=str(runtime_dir), XDG_CONFIG_HOME=str(runtime_dir / "config")
        )

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "meshctl", *shlex.split(line)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def must(self, line: str) -> str:
        done = self.run(line)
        assert done.returncode == 0, f"meshctl {line} ended with {done.returncode}: {done.stderr}"
        return done.stdout


def test_the_six_commands(tmp_path: Path) -> None:
    (tmp_path / "agentmesh").mkdir()
    shell = Shell(tmp_path)
    with MeshdProcess(tmp_path, socket_path=tmp_path / "agentmesh" / "meshd.sock"):
        exports = [line for line in shell.must(DEPLOY).splitlines() if line.startswith("export ")]
        environment = dict(shlex.split(line)[1].split("=", 1) for line in exports)
        shell.must(STATUS)
        worker = ChildProcess.python(
            "worker", "tests.e2e.worker_process", tmp_path, **environment, XDG_STATE_HOME=str(tmp_path)
        )
        with worker:
            assert json.loads(shell.must(EXECUTE)) == {"got": {"data": "example"}}
            task = json.loads(shell.must("task get task-001 --namespace production -o json"))
            assert "TASK_STATE_SUCCEEDED" in json.dumps(task)
            again = shell.run(EXECUTE)
            assert again.returncode == 0
            assert json.loads(again.stdout) == {"got": {"data": "example"}}
            assert "stored" in again.stderr
            other = shell.run(EXECUTE.replace("example", "changed"))
            assert other.returncode not in (0, 1)
            assert "Traceback" not in other.stderr
            assert "worker-1" in shell.must(STATUS)
            assert "worker-1" in shell.must(DISCOVER)
            assert shell.must(AUTH).count(".") == 2
            assert "worker-1" in shell.must(WORKLOAD)


def test_execute_says_why_nobody_takes_the_task(tmp_path: Path) -> None:
    (tmp_path / "agentmesh").mkdir()
    shell = Shell(tmp_path)
    with MeshdProcess(tmp_path, socket_path=tmp_path / "agentmesh" / "meshd.sock"):
        shell.must(DEPLOY)
        waited = shell.run("execute --task-type data-processing --payload 1 --timeout 3000")
        assert waited.returncode == 6
        assert "worker-1 in production can, but is not running" in waited.stderr
        assert shell.run("task get unknown --namespace production").returncode == 3
        assert shell.run("execute --no-such-option").returncode == 2


def test_without_a_daemon_the_error_says_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    done = shell.run("--address 127.0.0.1:9 status")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
