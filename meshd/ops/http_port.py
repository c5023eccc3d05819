"""The HTTP side port: /metrics, /healthz, /readyz and /.well-known/jwks.json.

Rule: it runs on threads of its own, bounded in number and in time, and shows nothing secret; whatever it needs from the
event loop it asks with a timeout, so neither waits for the other. Who sends or takes nothing keeps nobody out: an
orchestrator that gets no answer to its probe restarts a healthy meshd.
"""

from __future__ import annotations

import errno
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from meshd.config import StartError, split_address

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_CONNECTIONS: Final = 16
"""Handled at a time; a scraper, some probes and a curious person need fewer."""

REQUEST_TIMEOUT_S: Final = 5.0
"""From the connection until its request was read, however slowly it comes; as long again for the answer. Shorter when
others need the place."""

log = structlog.get_logger()


class Page(NamedTuple):
    """One answer."""

    status: int
    content_type: str
    body: bytes


Render = Callable[[], Page]


def text_page(status: int, text: str) -> Page:
    """Return a page of plain text."""
    return Page(status, "text/plain; charset=utf-8", text.encode() + b"\n")


class HttpPort:
    """The listening side port; its pages are rendered per request, on the request's thread."""

    def __init__(self, address: str, pages: dict[str, Render], tls: ssl.SSLContext | None = None) -> None:
        """Bind and serve; port 0 picks a free one. Raises StartError."""
        host, port = split_address(address)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self._server = _Server(found[0][0], (host, port), pages)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what, next_step = "the address is in use", "stop the process that has it, or set http_listen"
            else:
                what, next_step = (
                    str(error.strerror),
                    'set http_listen to an address of this host, or "" for none',
                )
            raise StartError(f"http_listen {address} cannot be bound: {what}", next_step) from None
        if tls is not None:
            # The handshake happens at the first read, on the connection's own thread and under its timeout.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; answers under way are finished by their threads or dropped with the process."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)


class _Places:
    """Who is connected; the oldest whose peer meshd waits for makes way when all places are taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}
        """For the rest of a request, or until its answer is taken; the oldest first."""
        self._rendering: set[socket.socket] = set()

    def take(self, connection: socket.socket) -> bool:
        """Give a place to a connection; False when pages are being made for all others."""
        with self._lock:
            if len(self._waiting) + len(self._rendering) >= MAX_CONNECTIONS:
                oldest = next(iter(self._waiting), None)
                if oldest is None:
                    return False
                del self._waiting[oldest]
                # Its thread wakes by that and ends. Not the method of a TLS socket, which changes what that thread uses.
                with suppress(OSError):
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)
            self._waiting[connection] = None
            return True

    def render(self, connection: socket.socket) -> bool:
        """Keep the place while a page is made; False when the connection had to make way."""
        with self._lock:
            if connection not in self._waiting:
                return False
            del self._waiting[connection]
            self._rendering.add(connection)
            return True

    def answer(self, connection: socket.socket) -> None:
        """From now on its peer is waited for again."""
        with self._lock:
            self._rendering.remove(connection)
            self._waiting[connection] = None

    def leave(self, connection: socket.socket) -> None:
        """Give the place back; of one that had to make way another has it."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._rendering.discard(connection)


class _Server(ThreadingHTTPServer):
    """One daemon thread a connection, for MAX_CONNECTIONS of them."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], pages: dict[str, Render]
    ) -> None:
        self.address_family = family
        self.pages = pages
        self.places = _Places()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection on a thread, or close it when there is no place."""
        if self.places.take(request):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Give its place back, then close it; every connection ends here."""
        self.places.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore what a peer broke: timeouts, resets, bad handshakes."""


class _Arriving(io.RawIOBase):
    """What a peer sends, until its time is over."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end_mono = time.monotonic() + REQUEST_TIMEOUT_S

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there. Raises TimeoutError."""
        left_s = self._end_mono - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request did not come in time")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the known paths."""

    server: _Server
    server_version = "meshd"
    sys_version = ""

    def setup(self) -> None:
        """Read with one timeout for all of the request, where the base class has one for each read."""
        super().setup()
        self.rfile = io.BufferedReader(_Arriving(self.connection))

    def do_GET(self) -> None:
        """Answer with the path's page."""
        if not self.server.places.render(self.connection):
            return
        path = self.path.partition("?")[0]
        render = self.server.pages.get(path)
        if render is None:
            known = " ".join(sorted(self.server.pages))
            page = text_page(404, f"not here; there are {known}")
        else:
            try:
                page = render()
            except Exception:
                log.exception("the HTTP side port could not render a page", path=path)
                page = text_page(500, "this page could not be made; the daemon's log says why")
        self.server.places.answer(self.connection)
        # Of one write; the whole answer is one or two.
        self.connection.settimeout(REQUEST_TIMEOUT_S)
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Log no request: probes come every second."""
