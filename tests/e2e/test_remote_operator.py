"""A person on another machine: a token from meshd's host, login over TLS, work, doctor, revocation."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.meshd_process import MeshdProcess, clean_environment
from tests.unit.ops.certificates import Authority


class Person:
    """Runs meshctl with a home of their own and no operator socket in sight."""

    def __init__(self, home: Path) -> None:
        self._environment = clean_environment(XDG_CONFIG_HOME=str(home), XDG_RUNTIME_DIR=str(home))
        self.file = home / "agentmesh" / "profiles.toml"

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "meshctl", *arguments],
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def must(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"meshctl {arguments} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def must_not(self, *arguments: str, code: int, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, f"meshctl {arguments} ended with {done.returncode}: {done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr + done.stdout


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def meshd(tmp_path: Path, authority: Authority) -> Iterator[MeshdProcess]:
    cert, key = authority.issue("localhost")
    with MeshdProcess(tmp_path, arguments=("--tls-cert", str(cert), "--tls-key", str(key))) as running:
        yield running


def test_a_working_day(tmp_path: Path, meshd: MeshdProcess, authority: Authority) -> None:
    here, alice = Person(tmp_path / "here"), Person(tmp_path / "alice")
    address = meshd.tcp_address.replace("127.0.0.1", "localhost")
    local = ("--address", meshd.address)
    token = here.must("auth", "--operator", "--subject", "alice", "--ttl", "8h", *local)
    there = ("--address", address, "--ca", str(authority.path))

    assert "as operator:alice until" in alice.must("login", *there, stdin=token)
    assert stat.S_IMODE(alice.file.stat().st_mode) == 0o600
    assert json.loads(alice.must("status", "-o", "json"))["status"]["version"]
    alice.must("namespace", "create", "blue")
    report = json.loads(alice.must("doctor", "-o", "json"))
    checks = {check["name"]: check for check in report["checks"]}
    assert {checks[name]["state"] for name in checks} == {"ok", "skipped"}
    assert "good for localhost" in checks["tls"]["result"]
    assert "operator:alice" in checks["token"]["result"]
    audit = json.loads(here.must("audit", "list", "-o", "json", *local))["events"]
    created = [(each["subject"], each["peer"]) for each in audit if each["method"] == "CreateNamespace"]
    assert created == [("operator:alice", "127.0.0.1")]

    stranger = Authority(tmp_path, "stranger")
    wrong = alice.must_not("doctor", "--address", address, "--ca", str(stranger.path), code=1)
    assert f"is not signed by {stranger.path}" in wrong
    assert "is not for 127.0.0.1" in alice.must_not(
        "doctor", "--address", meshd.tcp_address, "--ca", str(authority.path), code=1
    )

    here.must("token", "revoke", "--subject", "alice", *local)
    assert "revoked" in alice.must_not("status", code=4)
    assert "revoked" in alice.must_not("doctor", code=1)
    again = here.must("auth", "--operator", "--subject", "alice", "--scope", "read:*", *local)
    alice.must("login", stdin=again)
    alice.must("status")
    assert "scope of this token" in alice.must_not("namespace", "create", "red", code=4)
    meshd.stop()
    assert "nothing can be reached" in alice.must_not("doctor", code=1)
    alice.must("logout")
    assert again.strip() not in alice.file.read_text()
