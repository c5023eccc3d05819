"""Where the mesh is found, and that plaintext stays on this host."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import agentmesh
from agentmesh.connection import Target, call_metadata, open_blocking_channel, open_channel, resolve_target
from agentmesh.errors import ConfigurationError


def listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    return server


def test_argument_then_environment_then_socket_then_loopback(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert resolve_target(environ=environ).address in ("127.0.0.1:7600", "unix:/run/meshd/meshd.sock")
    with listen(tmp_path / "agentmesh" / "meshd.sock"):
        assert resolve_target(environ=environ).address == f"unix:{tmp_path}/agentmesh/meshd.sock"
        environ["AGENTMESH_ADDRESS"] = "localhost:1"
        assert resolve_target(environ=environ).address == "localhost:1"
        assert resolve_target("unix:///x.sock", environ=environ).address == "unix:/x.sock"


@pytest.mark.parametrize(
    "address", ["nonsense", "host", "host:0", "host:65536", "unix:relative", "http://h:1", "h:1 "]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write unix:/absolute/path or host:port"):
        resolve_target(address, environ={})


def test_plaintext_stays_on_this_host_unless_spelled_out(tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/x"):
        assert not resolve_target(address, environ={}).uses_tls
    with pytest.raises(ConfigurationError, match="--insecure"):
        resolve_target("mesh.example:7600", environ={})
    with pytest.raises(ConfigurationError, match="--insecure"):
        resolve_target("localhost.example:7600", environ={})
    assert resolve_target("mesh.example:7600", environ={"AGENTMESH_INSECURE": "1"}).insecure
    with pytest.raises(ConfigurationError, match="AGENTMESH_INSECURE"):
        resolve_target("mesh.example:7600", environ={"AGENTMESH_INSECURE": "perhaps"})
    ca = tmp_path / "ca.pem"
    with pytest.raises(ConfigurationError, match="does not exist"):
        resolve_target("mesh.example:7600", ca, environ={})
    ca.write_text("pem")
    assert resolve_target("mesh.example:7600", environ={"AGENTMESH_CA": str(ca)}) == Target(
        "mesh.example:7600", ca
    )
    assert resolve_target("mesh.example:7600", ca, environ={}).uses_tls
    assert not resolve_target("unix:/x", ca, environ={}).uses_tls


def test_no_channel_is_opened_to_where_plaintext_must_not_go() -> None:
    """A target need not come from the user: a daemon that goes away may name another one."""
    for open_one in (open_channel, open_blocking_channel):
        with pytest.raises(ConfigurationError, match="--insecure"):
            open_one(Target("mesh.example:7600"))


def test_metadata_names_caller_and_namespace() -> None:
    assert call_metadata() == ()
    assert call_metadata("t", "ns") == (("authorization", "Bearer t"), ("agentmesh-namespace", "ns"))


def test_importing_the_package_loads_neither_grpc_nor_protobuf() -> None:
    code = (
        "import sys, agentmesh, agentmesh.connection; print({'grpc', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_exported_name_exists() -> None:
    for name in agentmesh.__all__:
        assert getattr(agentmesh, name) is not None
    assert set(agentmesh.__all__) == set(agentmesh._HOMES)
    with pytest.raises(AttributeError):
        agentmesh.__getattr__("Nothing")
