"""What doctor finds on its own host: sockets and who may open them, names, ports, certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agentmesh.connection import Target
from meshctl import local_checks
from tests.unit.ops.certificates import Authority


@contextlib.contextmanager
def tls_server(cert: Path, key: Path, connections: int = 1) -> Iterator[str]:
    """A server that answers so many connections by a handshake; yields its address by the name localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(connections):
                with contextlib.suppress(OSError):
                    accepted, _ = listening.accept()
                    with context.wrap_socket(accepted, server_side=True) as wrapped:
                        wrapped.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"localhost:{listening.getsockname()[1]}"
        thread.join(10)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("host", "days", "usable", "words", "next_step"),
    [
        ("localhost", 90, True, "for 89d more", ""),
        ("localhost", 13, True, "for 12d more", "renew tls_cert"),
        ("localhost", -1, False, "has expired", "renew tls_cert"),
        ("mesh.example", 90, False, "is not for localhost", "use a name that it is for"),
    ],
)
def test_certificates(
    authority: Authority, host: str, days: int, usable: bool, words: str, next_step: str
) -> None:
    with tls_server(*authority.issue(host, timedelta(days=days))) as address:
        check, may_call = local_checks.certificate(Target(address, authority.path))
    assert (check.state, may_call) == ("wrong" if next_step else "ok", usable)
    assert words in check.result
    assert next_step in check.next_step


def test_a_certificate_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    with tls_server(*authority.issue()) as address:
        check, may_call = local_checks.certificate(Target(address, Authority(tmp_path, "other").path))
    assert (check.state, may_call) == ("wrong", False)
    assert "is not signed by" in check.result
    assert "--ca" in check.next_step


def test_a_ca_file_without_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing of use")
    check, may_call = local_checks.certificate(Target("localhost:1", tmp_path / "ca.pem"))
    assert (check.state, may_call, "is of no use" in check.result) == ("wrong", False, True)


def test_a_server_without_tls(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            accepted, _ = listening.accept()
            accepted.sendall(b"hello\n" * 10)
            accepted.close()

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"localhost:{listening.getsockname()[1]}"
        check, may_call = local_checks.certificate(Target(address, authority.path))
        thread.join(10)
    assert (check.state, may_call, "no TLS is spoken" in check.result) == ("wrong", False, True)


def test_no_tls_is_needed_on_this_host() -> None:
    for target in (Target("unix:/x"), Target("127.0.0.1:1")):
        assert local_checks.certificate(target)[0].state == "skipped"
    insecure, may_call = local_checks.certificate(Target("mesh.example:1", insecure=True))
    assert (insecure.state, may_call, "--insecure" in insecure.result) == ("skipped", True, True)


def test_tls_where_none_was_asked_for(authority: Authority) -> None:
    with tls_server(*authority.issue()) as address:
        check, may_call = local_checks.certificate(Target(address))
    assert (check.state, may_call) == ("wrong", False)
    assert "speaks TLS, and no CA is given" in check.result


def test_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert local_checks.connects(Target(address)).state == "ok"
    refused = local_checks.connects(Target(address))
    assert (refused.state, "Connection refused" in refused.result) == ("wrong", True)

    def fail(error: OSError) -> str:
        def raise_it(*_: object) -> None:
            raise error

        monkeypatch.setattr("meshctl.local_checks.socket.create_connection", raise_it)
        check = local_checks.connects(Target("mesh.example:7600"))
        assert check.state == "wrong"
        return check.next_step

    assert "getent hosts mesh.example" in fail(socket.gaierror(-2, "Name or service not known"))
    assert "firewall" in fail(TimeoutError())


def test_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meshd.sock"
    target = Target(f"unix:{path}")
    missing = local_checks.socket_rights(target)
    assert (missing.state, "No such file" in missing.result) == ("wrong", True)
    assert local_checks.connects(target).state == "wrong"
    path.touch()
    assert "is no socket" in local_checks.socket_rights(target).result
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o660)
        assert (local_checks.socket_rights(target).state, local_checks.connects(target).state) == ("ok", "ok")
        path.chmod(0o666)
        everybody = local_checks.socket_rights(target)
        assert (everybody.state, everybody.next_step) == ("wrong", f"chmod o= {path}")
        # Root may open everything, so the check is replaced.
        monkeypatch.setattr("meshctl.local_checks.os.access", lambda path, mode: False)
        denied = local_checks.socket_rights(target)
        assert (denied.state, "you may not open it" in denied.result) == ("wrong", True)
    assert local_checks.socket_rights(Target("127.0.0.1:1")).state == "skipped"


def test_a_user_without_a_name() -> None:
    assert local_checks._user_name(os.getuid())
    assert local_checks._user_name(4_242_424) == "4242424"
