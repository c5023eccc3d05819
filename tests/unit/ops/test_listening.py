"""Where the server listens: whose port and socket it is, and who may open it."""

import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshd.config import StartError
from meshd.wire import server as wire
from meshd.wire.services.health import HealthService
from tests.unit.ops.certificates import write_certificate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[grpc.aio.Server]:
    made = wire.new_server([], keepalive_ms=1_000, max_calls_per_connection=100)
    health = HealthService(["a.Service"])
    health.set_serving(True)
    health_pb2_grpc.add_HealthServicer_to_server(health, made)
    wire.serve_reflection(made, ["grpc.health.v1.Health"])
    yield made
    await made.stop(0)


async def check(channel: grpc.aio.Channel) -> int:
    async with channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(reply.status)


async def test_the_socket_is_private_from_the_start(server: grpc.aio.Server, tmp_path: Path) -> None:
    path = tmp_path / "run/meshd.sock"
    umask = os.umask(0)
    try:
        address = wire.listen_socket(server, str(path), "0600", "")
    finally:
        os.umask(umask)
    assert address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await server.start()
    assert await check(grpc.aio.insecure_channel(address)) == health_pb2.HealthCheckResponse.SERVING


async def test_group_and_mode_are_settable(server: grpc.aio.Server, tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    path = tmp_path / "run/meshd.sock"
    wire.listen_socket(server, str(path), "0660", group)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getgid()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o710
    with pytest.raises(StartError, match="is not a group of this host"):
        wire.listen_socket(server, str(tmp_path / "other.sock"), "0660", "no-such-group")


async def test_no_way_is_made_to_a_socket_that_was_named(
    server: grpc.aio.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "not-mounted/agentmesh/meshd.sock"
    with pytest.raises(StartError, match="agentmesh cannot be made: No such file or directory"):
        wire.listen_socket(server, str(path), "0600", "")
    assert not path.parents[1].exists()
    # The default one works wherever the environment says that it is.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path.parents[1]))
    assert wire.listen_socket(server, str(path), "0600", "") == f"unix:{path}"


async def test_a_stale_socket_is_replaced(server: grpc.aio.Server, tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    address = wire.listen_socket(server, str(path), "0600", "")
    await server.start()
    assert await check(grpc.aio.insecure_channel(address)) == health_pb2.HealthCheckResponse.SERVING


async def test_a_socket_that_answers_is_left_alone(server: grpc.aio.Server, tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(StartError, match="another process, probably a meshd"):
            wire.listen_socket(server, str(path), "0600", "")
    assert path.exists()


async def test_what_is_no_socket_is_left_alone(server: grpc.aio.Server, tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="is no socket"):
        wire.listen_socket(server, str(path), "0600", "")
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_told(server: grpc.aio.Server, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="longer than the 107 bytes"):
        wire.listen_socket(server, str(tmp_path / ("x" * 120)), "0600", "")


async def test_port_zero_picks_one_and_says_which(server: grpc.aio.Server) -> None:
    address = wire.listen_tcp(server, "127.0.0.1:0", None)
    assert address.startswith("127.0.0.1:")
    assert not address.endswith(":0")
    await server.start()
    assert await check(grpc.aio.insecure_channel(address)) == health_pb2.HealthCheckResponse.SERVING


async def test_a_port_in_use_is_never_shared(server: grpc.aio.Server) -> None:
    address = wire.listen_tcp(server, "127.0.0.1:0", None)
    other = wire.new_server([], keepalive_ms=1_000, max_calls_per_connection=100)
    with pytest.raises(StartError, match=f"listen {address}: another process has this port"):
        wire.listen_tcp(other, address, None)
    await other.stop(0)


async def test_an_address_of_another_host_is_told(server: grpc.aio.Server) -> None:
    with pytest.raises(StartError, match=r"listen 192\.0\.2\.1:7600: Cannot assign requested address"):
        wire.listen_tcp(server, "192.0.2.1:7600", None)


async def test_tls_is_spoken_with_a_certificate(server: grpc.aio.Server, tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    address = wire.listen_tcp(
        server, "127.0.0.1:0", lambda: wire.Certificate(cert.read_bytes(), key.read_bytes())
    )
    await server.start()
    trusting = grpc.ssl_channel_credentials(cert.read_bytes())
    name = [("grpc.ssl_target_name_override", "localhost")]
    assert (
        await check(grpc.aio.secure_channel(address, trusting, name))
        == health_pb2.HealthCheckResponse.SERVING
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await check(grpc.aio.insecure_channel(address))


async def test_a_renewed_certificate_is_shown_to_new_connections(
    server: grpc.aio.Server, tmp_path: Path
) -> None:
    pairs = [write_certificate(tmp_path, name) for name in ("old", "new")]
    shown = [wire.Certificate(cert.read_bytes(), key.read_bytes()) for cert, key in pairs]
    address = wire.listen_tcp(server, "127.0.0.1:0", lambda: shown[0])
    await server.start()
    name = [("grpc.ssl_target_name_override", "localhost")]

    def channel(cert: Path) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(cert.read_bytes()), name)

    (old, _), (new, _) = pairs
    kept = channel(old)
    stub: Any = health_pb2_grpc.HealthStub(kept)
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    del shown[0]
    for _ in range(2):
        assert await check(channel(new)) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError):
        await check(channel(old))
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    await kept.close()


async def test_metadata_beyond_the_limit_is_refused_every_time(server: grpc.aio.Server) -> None:
    address = wire.listen_tcp(server, "127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(20):
            await stub.Check(health_pb2.HealthCheckRequest(), metadata=[("x", "y" * 7_000)])
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest(), metadata=[("x", "y" * 9_000)])
