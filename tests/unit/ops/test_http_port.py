"""The HTTP side port answers beside the event loop, whatever that does."""

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from meshd.config import StartError
from meshd.ops import event_loop, http_port
from meshd.ops.http_port import MAX_CONNECTIONS, HttpPort, Page, text_page
from meshd.ops.metrics import Metrics
from meshd.ops.pages import pages
from meshd.ops.readiness import Readiness
from tests.unit.ops.certificates import write_certificate


class Lag:
    lag_s = 0.0


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def lag() -> Lag:
    return Lag()


@pytest.fixture
def port(readiness: Readiness, lag: Lag) -> Iterator[HttpPort]:
    shown = pages(Metrics(), readiness, lag, lambda: {"keys": [{"kty": "OKP"}]})  # type: ignore[arg-type]
    made = HttpPort("127.0.0.1:0", shown)
    yield made
    made.stop()


def get(port: HttpPort, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=5)
    connection.request(method, path)
    reply = connection.getresponse()
    return reply.status, reply.headers["Content-Type"], reply.read().decode()


def test_readyz_tells_why_not(port: HttpPort, readiness: Readiness) -> None:
    assert get(port, "/readyz")[::2] == (503, "not ready: starting\n")
    readiness.begin()
    assert get(port, "/readyz")[::2] == (200, "ready\n")
    readiness.withdraw("the storage failed")
    readiness.begin()
    assert get(port, "/readyz")[::2] == (503, "not ready: the storage failed\n")


def test_healthz_asks_for_a_restart_only_when_the_loop_is_stuck(port: HttpPort, lag: Lag) -> None:
    lag.lag_s = 6.0
    assert get(port, "/healthz")[0] == 200
    lag.lag_s = 11.0
    assert get(port, "/healthz")[0] == 503


def test_keys_and_metrics_are_shown(port: HttpPort) -> None:
    status, kind, body = get(port, "/.well-known/jwks.json")
    assert (status, kind, json.loads(body)) == (200, "application/json", {"keys": [{"kty": "OKP"}]})
    status, kind, body = get(port, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "meshd_commit_rows_total 0.0" in body


def test_other_paths_and_methods_are_refused(port: HttpPort) -> None:
    assert get(port, "/")[0] == 404
    assert "/readyz" in get(port, "/etc/passwd")[2]
    assert get(port, "/metrics", "POST")[0] == 501
    assert get(port, "/healthz", "HEAD")[2] == ""


def test_a_page_that_fails_shows_nothing_of_the_error() -> None:
    def broken() -> Page:
        raise ValueError("secret")

    port = HttpPort("127.0.0.1:0", {"/": broken})
    status, _, body = get(port, "/")
    port.stop()
    assert status == 500
    assert "secret" not in body


def closed_by_meshd(connection: socket.socket) -> bool:
    connection.settimeout(5)
    with suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


@contextmanager
def silent_connections(port: HttpPort, count: int) -> Iterator[list[socket.socket]]:
    """Connect, but send nothing; all are accepted, in this order, before what connects later."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port.port))) for _ in range(count)]


def test_who_sends_nothing_makes_way_for_who_asks(port: HttpPort) -> None:
    with silent_connections(port, 3 * MAX_CONNECTIONS) as silent:
        assert get(port, "/healthz")[0] == 200
        assert all(closed_by_meshd(each) for each in silent[: -(MAX_CONNECTIONS - 1)])
        for each in silent[-(MAX_CONNECTIONS - 1) :]:  # Nobody needed the places of these.
            each.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert each.recv(12) == b"HTTP/1.0 200"


def test_who_sends_half_a_request_makes_way_and_is_not_answered() -> None:
    asked: list[str] = []

    def page() -> Page:
        asked.append("page")
        return text_page(200, "ok")

    port = HttpPort("127.0.0.1:0", {"/page": page, "/healthz": lambda: text_page(200, "ok")})
    with silent_connections(port, MAX_CONNECTIONS) as half:
        for each in half:
            each.send(b"GET /page HTTP/1.0\r\nx: ")
        assert get(port, "/healthz")[0] == 200
        assert closed_by_meshd(half[0])
        port.stop()
        assert asked == []


def test_who_does_not_take_the_answer_makes_way() -> None:
    rendered = threading.Semaphore(0)
    page = Page(200, "text/plain", bytes(32 * 1024 * 1024))  # More than a system holds for a peer.

    def large() -> Page:
        rendered.release()
        return page

    port = HttpPort("127.0.0.1:0", {"/large": large, "/healthz": lambda: text_page(200, "ok")})
    with silent_connections(port, MAX_CONNECTIONS) as taking_nothing:
        for each in taking_nothing:
            each.send(b"GET /large HTTP/1.0\r\n\r\n")
            assert rendered.acquire(timeout=5)
        assert get(port, "/healthz")[0] == 200
    port.stop()


def test_pages_being_made_keep_their_places() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow() -> Page:
        begun.release()
        go_on.wait(5)
        return text_page(200, "ok")

    port = HttpPort("127.0.0.1:0", {"/slow": slow})
    with silent_connections(port, MAX_CONNECTIONS) as waiting:
        for each in waiting:
            each.send(b"GET /slow HTTP/1.0\r\n\r\n")
            assert begun.acquire(timeout=5)
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port, "/slow")
        go_on.set()
        for each in waiting:
            each.settimeout(5)
            assert each.recv(12) == b"HTTP/1.0 200"
    port.stop()


def test_a_request_that_comes_byte_by_byte_is_not_waited_for(
    port: HttpPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_port, "REQUEST_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", port.port)) as slow, suppress(ConnectionError):
        slow.settimeout(0.05)
        for byte in b"GET /healthz HTTP/1.0\r\nx: " + bytes(100):
            slow.send(bytes([byte]))
            with suppress(TimeoutError):
                assert slow.recv(1) == b""
                return
        pytest.fail("it was waited for")


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(StartError, match=f"http_listen {address} .* in use"):
            HttpPort(address, {})


def test_https_is_spoken_with_a_certificate(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    port = HttpPort("127.0.0.1:0", {"/healthz": lambda: text_page(200, "ok")}, context)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(port, "/healthz")
    trusting = ssl.create_default_context(cafile=str(cert))
    connection = http.client.HTTPSConnection("localhost", port.port, timeout=5, context=trusting)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()
    port.stop()


@pytest.mark.anyio
async def test_a_blocked_loop_is_not_waited_for() -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(event_loop.ask, loop, lambda: 42, 5.0) == 42
    blocked = threading.Event()

    def ask_while_blocked() -> int | None:
        blocked.wait()
        return event_loop.ask(loop, lambda: 42, 0.05)

    asked = asyncio.create_task(asyncio.to_thread(ask_while_blocked))
    await asyncio.sleep(0.05)
    blocked.set()
    time.sleep(0.5)  # noqa: ASYNC251 - this is the block
    assert await asked is None


@pytest.mark.anyio
async def test_lag_is_seen_while_the_loop_stands_still() -> None:
    lag = event_loop.LoopLag()
    await asyncio.sleep(0.3)
    assert lag.lag_s < 0.2
    time.sleep(0.8)  # noqa: ASYNC251 - this is the block
    assert lag.lag_s > 0.4
    lag.stop()
