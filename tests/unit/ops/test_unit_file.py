"""deploy/meshd.service: what it sets are settings of meshd, its limits agree with meshd's own, and it is tight.

The checks by systemd-analyze run wherever it is installed; what they would find worst is checked without it too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agentmesh import connection
from meshd import daemon
from meshd.config import sources
from meshd.ops import process

UNIT = Path(__file__).resolve().parents[3] / "deploy" / "meshd.service"
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSURE = 2.0
"""Of 10, as `systemd-analyze security` counts; a unit without any hardening has 9.6."""


@pytest.fixture
def service() -> dict[str, list[str]]:
    """Every value of every key of the section [Service], in order."""
    values: dict[str, list[str]] = {}
    section = ""
    for line in map(str.strip, UNIT.read_text().splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def one(service: dict[str, list[str]], key: str) -> str:
    (value,) = service[key]
    return value


def test_its_settings_agree_with_the_directories_and_the_user(
    service: dict[str, list[str]], tmp_path: Path
) -> None:
    environment = dict(entry.split("=", 1) for entry in service["Environment"])
    (tmp_path / "empty.toml").touch()
    settings = sources.load(["--config", str(tmp_path / "empty.toml")], environment).settings
    assert settings.data_dir == f"/var/lib/{one(service, 'StateDirectory')}"
    assert one(service, "StateDirectoryMode") == "0700"
    assert Path(settings.socket).parent == Path("/run") / one(service, "RuntimeDirectory")
    assert settings.socket_group == one(service, "Group")
    assert one(service, "User") not in ("", "root")
    # The group may pass and open, nobody else may anything.
    assert (settings.socket_mode, one(service, "RuntimeDirectoryMode")) == ("0660", "0750")
    assert str(sources.SYSTEM_FILE.parent) == f"/etc/{one(service, 'ConfigurationDirectory')}"
    assert settings.socket == connection.SYSTEM_SOCKET


def test_its_limits_leave_meshd_its_own(service: dict[str, list[str]]) -> None:
    assert one(service, "Type") == "notify"
    assert int(one(service, "TimeoutStopSec")) > daemon.EXIT_WITHIN_S
    assert int(one(service, "LimitNOFILE")) == process.MAX_OPEN_FILES
    assert one(service, "Restart") == "on-failure"
    # systemd gives up after 5 starts in 10 s; at this pace it never does.
    assert int(one(service, "RestartSec")) * 5 > 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
    ],
)
def test_it_is_tight(service: dict[str, list[str]], key: str, value: str) -> None:
    assert one(service, key) == value


def test_it_may_call_what_meshd_calls(service: dict[str, list[str]]) -> None:
    # Without @chown the operator socket cannot be given to its group; see meshd.ops.other_threads for the last one.
    assert service["SystemCallFilter"] == [
        "@system-service",
        "~@privileged @resources",
        "@chown",
        "sched_setscheduler",
    ]
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(one(service, "RestrictAddressFamilies").split())


@pytest.mark.parametrize("arguments", [("verify",), ("security", "--offline=true")] if ANALYZE else [])
def test_systemd_accepts_it(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert ANALYZE is not None
    copy = tmp_path / UNIT.name
    # What it starts is not installed where tests run.
    copy.write_text(re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={shutil.which('true')}", UNIT.read_text()))
    done = subprocess.run([ANALYZE, *arguments, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if arguments[0] == "security":
        exposure = re.search(r"exposure level for meshd\.service: ([0-9.]+)", done.stdout)
        assert exposure is not None, done.stdout
        assert float(exposure[1]) <= MOST_EXPOSURE
