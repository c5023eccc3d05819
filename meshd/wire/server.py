"""The gRPC server: its options and where it listens. What it serves is added by the daemon.

Rule: a port or socket that belongs to somebody else is an error before anything is served, never shared.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_reflection.v1alpha import reflection

from meshd.config import StartError, split_address
from meshd.domain.limits import KIB, MAX_MESSAGE_BYTES
from meshd.wire.operator_socket import open_socket

REFLECTION_SERVICE_NAME: Final[str] = reflection.SERVICE_NAME

ENVELOPE_BYTES: Final = 64 * KIB
"""Headroom above the contract's limit: a batch cut at 1 MiB of items is not refused for its envelope."""

MAX_METADATA_BYTES: Final = 8 * KIB

LIFELINES: Final = frozenset({"RegisterAgent", "RenewToken", "Work", "Heartbeat"})
"""Methods by which agents come and stay: each has a queue of its own, so that no flood of other calls is before them."""

PENDING_CALLS: Final = 8_192
"""Calls that wait in one queue, each 14 KiB, those whose caller has given up included. Past this the core sheds them as
CANCELLED: so it is above the burst in which a fleet comes back after a restart, and what 500 full connections hold."""

MIN_KEEPALIVE_TIMEOUT_MS: Final = 1_000
MIN_PEER_PING_INTERVAL_MS: Final = 500
HANDSHAKE_TIMEOUT_MS: Final = 10_000


class Certificate(NamedTuple):
    """Chain and key of the server, PEM."""

    cert_pem: bytes
    key_pem: bytes


def new_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], keepalive_ms: int, max_calls_per_connection: int
) -> grpc.aio.Server:
    """Return a server without services and addresses; pings every peer at the given pace.

    What a connection may have open bounds what a flood on it costs the others, opened and reset streams included
    (CVE-2023-44487): beyond it calls wait at their client, which costs this server nothing.
    """
    options: list[tuple[str, int]] = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + ENVELOPE_BYTES),
        # The core refuses at random between a soft and a hard limit; equal limits make it predictable.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", max_calls_per_connection),
        # An answered call counts in the core until Python has let go of it, some turns later, while its client starts the
        # next one: without room for those, more than half of a busy connection's calls were refused as UNAVAILABLE.
        ("grpc.http2.max_deallocating_streams", max_calls_per_connection),
        # The core sheds at random between these two: equal, they bound the memory of a flood at what the first one says.
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        ("grpc.enable_channelz", 1),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        # All three are needed: without ping_timeout_ms a frozen peer is found after a minute only.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_timeout_ms(keepalive_ms)),
        ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms(keepalive_ms)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # This is the name that the core reads for its MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PEER_PING_INTERVAL_MS),
    ]
    server = grpc.aio.server(interceptors=interceptors, options=options)
    register = server.add_registered_method_handlers

    # What generated code registers method by method, the server awaits method by method: a queue of its own for each, but
    # at every call it waits anew on one future for each, 25 µs for all of ours. The others share one queue and future.
    def register_lifelines(service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        register(service, {name: handler for name, handler in handlers.items() if name in LIFELINES})

    server.add_registered_method_handlers = register_lifelines  # type: ignore[method-assign,assignment]
    return server


def keepalive_timeout_ms(keepalive_ms: int) -> int:
    """Return how long a ping waits for its answer: as long as the pace, since a busy fleet answers late."""
    return max(MIN_KEEPALIVE_TIMEOUT_MS, keepalive_ms)


def open_calls_of_newest_server() -> Callable[[], int]:
    """Return a function that counts the open calls of the server made last: those its core has queued and those taken.

    A call that the core shed counts as open for ever.
    """
    ask: Any = channelz.ChannelzServicer
    known: list[Any] = []
    while True:
        page = ask.GetServers(
            channelz_pb2.GetServersRequest(start_server_id=len(known) and known[-1] + 1), None
        )
        known += [server.ref.server_id for server in page.server]
        if page.end or not page.server:
            break
    request = channelz_pb2.GetServerRequest(server_id=known[-1])

    def count() -> int:
        data = ask.GetServer(request, None).server.data
        return int(data.calls_started - data.calls_succeeded - data.calls_failed)

    return count


def listen_tcp(server: grpc.aio.Server, address: str, certificate: Callable[[], Certificate] | None) -> str:
    """Bind host:port and return the address bound, with the port that was chosen for port 0. Raises StartError.

    ``certificate`` is asked at each handshake, on a thread of the core.
    """
    try:
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _credentials(certificate))
    except RuntimeError:
        port = 0
    if port == 0:
        raise _not_bound(address)
    return f"{address.rpartition(':')[0]}:{port}"


def _credentials(certificate: Callable[[], Certificate]) -> grpc.ServerCredentials:
    shown = certificate()

    def configuration(pems: Certificate) -> Any:
        return grpc.ssl_server_certificate_configuration([(pems.key_pem, pems.cert_pem)])

    def fetch() -> Any:
        nonlocal shown
        fresh = certificate()
        if fresh == shown:
            return None
        shown = fresh
        return configuration(fresh)

    return grpc.dynamic_ssl_server_credentials(configuration(shown), fetch)


def listen_socket(server: grpc.aio.Server, path: str, mode: str, group: str) -> str:
    """Bind the operator socket and return its address. Raises StartError."""

    def bind(address: str) -> None:
        if server.add_insecure_port(address) == 0:
            raise RuntimeError(address)

    absolute = Path(path).absolute()
    open_socket(absolute, int(mode, 8), group, bind)
    return f"unix:{absolute}"


def serve_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let clients ask for the contract of these services."""
    reflection.enable_server_reflection([*services, REFLECTION_SERVICE_NAME], server)


def _not_bound(address: str) -> StartError:
    host, port = split_address(address)
    why = "it cannot be bound"
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return StartError(
                f"listen {address}: another process has this port", "stop it, or set listen to another port"
            )
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
    return StartError(
        f"listen {address}: {why}", "set listen to an address of this host, such as 127.0.0.1:7600"
    )
