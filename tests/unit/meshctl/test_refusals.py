"""What a failed call comes to be called where its answer did not come from meshd, or a profile hides the socket."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from agentmesh import errors
from agentmesh.connection import Target
from meshctl import checks
from meshctl.problems import ExitCode
from meshctl.refusals import problem_of
from tests.unit.meshctl.test_local_checks import tls_server
from tests.unit.ops.certificates import Authority

# What gRPC itself says of a certificate for another host: no reason of the mesh's is with it.
NOT_THIS_HOST = errors.NotAuthenticated("call host does not match SSL server name", code="UNAUTHENTICATED")


def test_a_certificate_for_another_host_is_named_as_such(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with tls_server(*authority.issue("mesh.example")) as address:
        problem = problem_of(NOT_THIS_HOST, Target(address, authority.path))
    assert problem.code == ExitCode.UNREACHABLE
    assert problem.what == f"the certificate at {address} is not for localhost"
    assert "subjectAltName=DNS:localhost" in problem.next_step


def test_a_stranger_with_a_good_certificate_is_no_meshd(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with tls_server(*authority.issue()) as address:
        problem = problem_of(NOT_THIS_HOST, Target(address, authority.path))
    assert (problem.code, "is no meshd" in problem.what) == (ExitCode.UNREACHABLE, True)


@pytest.mark.parametrize("reason", ["TOKEN_REVOKED", "TOKEN_EXPIRED"])
def test_a_refused_profile_says_where_a_fresh_token_comes_from(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = errors.NotAuthenticated("refused", reason=reason, code="UNAUTHENTICATED")
    target = Target("127.0.0.1:7600")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("agentmesh.connection.SYSTEM_SOCKET", str(tmp_path / "none"))
    elsewhere = problem_of(refused, target, "prod").next_step
    assert elsewhere.endswith("meshctl login --profile prod")
    (tmp_path / "agentmesh").mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "agentmesh" / "meshd.sock"))
        here = problem_of(refused, target, "prod").next_step
    assert here.startswith(elsewhere)
    assert here.endswith(f"--address unix:{tmp_path}/agentmesh/meshd.sock")


UNREACHABLE = errors.Unreachable("failed to connect", code="UNAVAILABLE")


def test_a_server_with_tls_that_is_called_without_is_named_as_such(tmp_path: Path) -> None:
    with tls_server(*Authority(tmp_path).issue(), connections=2) as address:
        problem = problem_of(UNREACHABLE, Target(address))
    assert problem.code == ExitCode.UNREACHABLE
    assert problem.what == f"what listens at {address} speaks TLS, and no CA is given"
    assert problem.next_step.endswith("--ca FILE")


def test_nothing_that_listens_is_no_fault_of_the_certificate(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    for target in (Target(address), Target(address, Authority(tmp_path).path)):
        assert problem_of(UNREACHABLE, target).what == f"no meshd answers at {address}"


def test_a_certificate_of_another_authority_is_named_as_such(tmp_path: Path) -> None:
    with tls_server(*Authority(tmp_path).issue(), connections=2) as address:
        problem = problem_of(UNREACHABLE, Target(address, Authority(tmp_path, "other").path))
    assert "is not signed by" in problem.what


@pytest.mark.parametrize(
    ("address", "next_step"),
    [
        ("unix:/run/meshd/meshd.sock", "start it: systemctl start meshd"),
        ("unix:/tmp/nowhere/meshd.sock", "start one here: meshd "),
        ("127.0.0.1:1", "start one here: meshd "),
        ("192.0.2.1:7600", "look at it there: systemctl status meshd"),
    ],
)
def test_nobody_is_told_to_start_a_second_mesh(
    address: str, next_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshctl.local_checks.connects", lambda target: checks.wrong("port", "", ""))
    assert problem_of(UNREACHABLE, Target(address)).next_step.startswith(next_step)
