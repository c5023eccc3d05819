"""Where the mesh is, and how a channel to it is opened.

Rule: plaintext goes only over a Unix socket or the loopback interface, or where `insecure` was spelled out; everything
else is TLS against the given certificate authority. gRPC itself is imported when a channel is opened, not before, so
that a command line which only prints its help stays fast.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentmesh.errors import ConfigurationError

if TYPE_CHECKING:
    import grpc
    import grpc.aio

DEFAULT_TCP_ADDRESS = "127.0.0.1:7600"
SYSTEM_SOCKET = "/run/meshd/meshd.sock"
#: Largest message in either direction.
MAX_MESSAGE_BYTES = 1024 * 1024
#: Pace of the pings by which a client finds a dead daemon: of callers, and of agents, of which there may be thousands.
#: Each ping costs the daemon as much as one of its own, and an agent's frames tell it most of what they would.
CALLS_KEEPALIVE_MS = 1_000
AGENT_KEEPALIVE_MS = 10_000
#: Connections that a program opens at most, each when those before are full: the daemon lets one carry few calls, so that
#: no flood takes all of it. For calls that are answered at once, and for those that wait or watch.
CALL_CONNECTIONS = 4
HELD_CONNECTIONS = 200
#: Largest payload inside a message.
MAX_INLINE_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = MAX_INLINE_BYTES + 16 * 1024

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """An address of the mesh and how it is trusted; see `resolve_target`."""

    address: str  #: `unix:/path` or `host:port`
    ca: Path | None = None  #: PEM file of the certificate authority; turns TLS on for `host:port`
    insecure: bool = False  #: plaintext even to another host

    @property
    def is_socket(self) -> bool:
        """True for the operator socket, where a call needs no token."""
        return self.address.startswith("unix:")

    @property
    def is_loopback(self) -> bool:
        """True when the address cannot leave this host."""
        if self.is_socket:
            return True
        host = self.address.rpartition(":")[0].strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def uses_tls(self) -> bool:
        """True when the channel is encrypted. A Unix socket never is: its file mode protects it."""
        return self.ca is not None and not self.is_socket


def resolve_target(
    address: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    insecure: bool | None = None,  # noqa: FBT001 - a setting, handed through by position nowhere else
    environ: Mapping[str, str] = os.environ,
) -> Target:
    """Finds the mesh: argument, AGENTMESH_ADDRESS, a socket that exists, and last 127.0.0.1:7600.

    `ca` and `insecure` fall back to AGENTMESH_CA and AGENTMESH_INSECURE. Raises ConfigurationError for an address that
    is neither `unix:/path` nor `host:port`, a CA file that is not there, and plaintext to another host.
    """
    chosen = address or environ.get("AGENTMESH_ADDRESS") or existing_socket(environ) or DEFAULT_TCP_ADDRESS
    ca_file = ca or environ.get("AGENTMESH_CA") or None
    target = Target(
        address=_checked_address(chosen),
        ca=Path(ca_file).expanduser() if ca_file else None,
        insecure=_flag("AGENTMESH_INSECURE", environ) if insecure is None else insecure,
    )
    if target.ca is not None and not target.ca.is_file():
        raise ConfigurationError(
            f"the CA file {target.ca} does not exist: name a PEM file by --ca or AGENTMESH_CA"
        )
    _refuse_open_plaintext(target)
    return target


def channel_options(keepalive_ms: int = CALLS_KEEPALIVE_MS) -> list[tuple[str, int]]:
    """Options of a client channel: a dead peer is found within twice the pace; reconnecting never pauses over 1 s."""
    return [
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),  # without it a frozen peer goes unnoticed for a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),  # bounds one attempt to connect, too
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A channel made anew must not inherit the backoff of the one it replaces.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def spreading_options(connections: int) -> list[tuple[str, int | str]]:
    """Options of a channel that opens a further connection, up to so many, when all it has are full (gRFC A105)."""
    scaling = {"connectionScaling": {"maxConnectionsPerSubchannel": connections}}
    return [
        ("grpc.service_config", json.dumps(scaling)),
        ("grpc.max_connections_per_subchannel_cap", connections),
    ]


def open_channel(
    target: Target, keepalive_ms: int = CALLS_KEEPALIVE_MS, connections: int = 1
) -> grpc.aio.Channel:
    """An asyncio channel; it connects with the first call. Call it on the loop that will use the channel."""
    import grpc.aio

    options: list[tuple[str, int | str]] = [*_options_for(target, keepalive_ms)]
    if connections > 1:
        options += spreading_options(connections)
    if not target.uses_tls:
        _refuse_open_plaintext(target)
        return grpc.aio.insecure_channel(target.address, options=options)
    return grpc.aio.secure_channel(target.address, _credentials(target), options=options)


def open_blocking_channel(target: Target) -> grpc.Channel:
    """A blocking channel. A process uses either these or asyncio ones: gRPC does not bear a mix of both."""
    import grpc

    options = _options_for(target)
    if not target.uses_tls:
        _refuse_open_plaintext(target)
        return grpc.insecure_channel(target.address, options=options)
    return grpc.secure_channel(target.address, _credentials(target), options=options)


def call_metadata(token: str | None = None, namespace: str | None = None) -> tuple[tuple[str, str], ...]:
    """Metadata of a call: who asks, and the namespace for routing."""
    pairs = []
    if token:
        pairs.append(("authorization", f"Bearer {token}"))
    if namespace:
        pairs.append(("agentmesh-namespace", namespace))
    return tuple(pairs)


def existing_socket(environ: Mapping[str, str]) -> str | None:
    """The address of this host's operator socket; None when there is none."""
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    candidates = [f"{runtime_dir}/agentmesh/meshd.sock"] if runtime_dir else []
    for path in [*candidates, SYSTEM_SOCKET]:
        if _is_socket(path):
            return f"unix:{path}"
    return None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - Path hides on some Pythons what is asked here
    except PermissionError:
        return True  # Behind a closed door: a call will say whose permission is missing.
    except OSError:
        return False


def _checked_address(address: str) -> str:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if path.startswith("/"):
            return f"unix:{path}"
    elif (match := _HOST_PORT.match(address)) and 0 < int(match["port"]) < 65536:
        return address
    raise ConfigurationError(f"{address!r} is not an address: write unix:/absolute/path or host:port")


def _flag(name: str, environ: Mapping[str, str]) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise ConfigurationError(f"{name} is neither 1 nor 0")
    return value in _TRUE


def _refuse_open_plaintext(target: Target) -> None:
    if target.ca is None and not target.is_loopback and not target.insecure:
        raise ConfigurationError(
            f"{target.address} is on another host and no CA is given: name one by --ca or AGENTMESH_CA, "
            "or spell out --insecure or AGENTMESH_INSECURE=1 to send tokens and payloads unencrypted"
        )


def _options_for(target: Target, keepalive_ms: int = CALLS_KEEPALIVE_MS) -> list[tuple[str, int]]:
    options = channel_options(keepalive_ms)
    if target.is_loopback:
        options.append(
            ("grpc.enable_http_proxy", 0)
        )  # a proxy set for the outside cannot reach this host's loopback
    return options


def _credentials(target: Target) -> grpc.ChannelCredentials:
    import grpc

    assert target.ca is not None
    try:
        return grpc.ssl_channel_credentials(root_certificates=target.ca.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"the CA file {target.ca} cannot be read: {error.strerror}") from error
