"""The settings themselves: each one is declared, documented and bounded here, once.

Rule: ``meshd --help``, deploy/meshd.toml and the docs derive from these fields, so a setting cannot miss any of them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

DAY_MS = 24 * 3_600_000


class StartError(Exception):
    """meshd cannot start. Says what is wrong and what to do next, each in one line."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(f"{what}\n{next_step}")
        self.what = what
        self.next_step = next_step

    @classmethod
    def because_of(cls, error: Exception) -> Self:
        """Return what an error says that names its next step after the first semicolon."""
        what, _, next_step = str(error).partition("; ")
        return cls(what, next_step)


class SettingsError(StartError):
    """A setting is unknown, has the wrong type or is out of bounds."""


def _default_data_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/meshd"
    return f"{os.environ.get('XDG_STATE_HOME') or Path.home() / '.local/state'}/meshd"


def default_socket() -> str:
    """Return where the operator socket is when nobody says so."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime_dir}/agentmesh/meshd.sock" if runtime_dir else "/run/meshd/meshd.sock"


def _setting(
    default: str | int | bool | Callable[[], str],  # noqa: FBT001 - a default may be True
    group: str,
    text: str,
    *,
    bounds: tuple[int, int] = (0, 0),
    choices: tuple[str, ...] = (),
    shown_default: str = "",
    example: str = "",
) -> Any:
    metadata = {
        "group": group,
        "text": text,
        "bounds": bounds,
        "choices": choices,
        "shown": shown_default,
        "example": example,
    }
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Times are milliseconds, sizes MiB, paths text ("" turns the thing off)."""

    data_dir: str = _setting(
        _default_data_dir,
        "Files and addresses",
        "Directory of the database, the signing keys and the lock; made with mode 0700 when absent.",
        shown_default="$XDG_STATE_HOME/meshd or ~/.local/state/meshd; /var/lib/meshd for root",
        example="/var/lib/meshd",
    )
    listen: str = _setting(
        "127.0.0.1:7600",
        "Files and addresses",
        'TCP address host:port for agents and operators; port 0 picks a free one, "" turns TCP off.',
    )
    socket: str = _setting(
        default_socket,
        "Files and addresses",
        'Operator socket. Whoever may open it is the local operator, without a token; "" turns it off.',
        shown_default="$XDG_RUNTIME_DIR/agentmesh/meshd.sock, else /run/meshd/meshd.sock",
        example="/run/meshd/meshd.sock",
    )
    socket_mode: str = _setting(
        "0600", "Files and addresses", "Permissions of the operator socket, in octal; never for others."
    )
    socket_group: str = _setting(
        "",
        "Files and addresses",
        'Group of the operator socket and of the directory made for it; goes with socket_mode "0660".',
    )
    http_listen: str = _setting(
        "127.0.0.1:7601",
        "Files and addresses",
        'Address of /metrics, /healthz, /readyz and /.well-known/jwks.json; "" turns it off. '
        "Plain HTTP on loopback, HTTPS with tls_cert elsewhere.",
    )
    tls_cert: str = _setting(
        "", "TLS", "PEM file with the server's certificate chain; turns TLS on for listen. Goes with tls_key."
    )
    tls_key: str = _setting("", "TLS", "PEM file with the certificate's private key, not encrypted.")
    insecure: bool = _setting(
        False,
        "TLS",
        "Allow addresses other than loopback without TLS: everybody on the way reads tokens and payloads.",
    )
    issuer: str = _setting(
        "agentmesh",
        "TLS",
        "Name of this mesh in its tokens (iss); a change makes every token handed out invalid.",
    )
    log_level: str = _setting(
        "info",
        "Logging",
        "Least severe messages to log; debug follows every task by its id, a line a step.",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "text",
        "Logging",
        "One JSON object a line, or text for people; both go to stderr.",
        choices=("json", "text"),
    )
    beat_interval_ms: int = _setting(
        1_000,
        "Sessions",
        "Pace at which agents prove that they live; slower by itself in fleets of more than 500.",
        bounds=(100, 60_000),
    )
    lease_ttl_ms: int = _setting(
        3_500,
        "Sessions",
        "An agent silent for so long is lost; at least twice the beat interval, and longer in proportion with it.",
        bounds=(2_000, 600_000),
    )
    accept_timeout_ms: int = _setting(
        1_000, "Sessions", "Time an agent has to accept an assignment.", bounds=(100, 60_000)
    )
    lost_after_ms: int = _setting(
        750, "Sessions", "An agent whose last connection broke is lost after so long.", bounds=(0, 600_000)
    )
    hold_min_ms: int = _setting(
        10_000,
        "Sessions",
        "After a restart, time for agents to return to their work, at least.",
        bounds=(0, 600_000),
    )
    disconnected_grace_ms: int = _setting(
        600_000,
        "Sessions",
        "How long an agent without connection goes on with its work and keeps results.",
        bounds=(0, DAY_MS),
    )
    keepalive_ms: int = _setting(
        1_000,
        "Sessions",
        "Pace of HTTP/2 pings, which find frozen hosts and cut networks; slower by itself from the next start on"
        " when meshd knows more than 2,000 sessions then.",
        bounds=(500, 600_000),
    )
    max_calls_per_connection: int = _setting(
        16,
        "Sessions",
        "Calls and streams that one connection may have open; further ones wait at the client. Raise it for programs that"
        " keep more waits, watches or agents on one connection than this.",
        bounds=(8, 65_536),
    )
    max_reconnect_backoff_ms: int = _setting(
        1_000, "Sessions", "Longest pause of an agent between two attempts to connect.", bounds=(50, 60_000)
    )
    identity_ttl_days: int = _setting(
        30, "Sessions", "How long an agent's own key renews its tokens after its last use.", bounds=(1, 3_650)
    )
    retention_days: int = _setting(
        7, "Storage", "How long ended tasks, their results and their ids are kept.", bounds=(7, 3_650)
    )
    min_free_mib: int = _setting(
        64,
        "Storage",
        "With less space than this left for data_dir, new work is refused. Half as much is held in reserve, in a file of its own.",
        bounds=(1, 1_048_576),
    )
    max_uncommitted_mib: int = _setting(
        64, "Storage", "New work is refused while more than this waits for the disk.", bounds=(2, 65_536)
    )
    commit_window_ms: int = _setting(
        20,
        "Storage",
        "Longest wait for more to write in the same commit, under concurrent load.",
        bounds=(0, 100),
    )

    def __post_init__(self) -> None:
        """Check what one field alone cannot tell. Raises SettingsError."""
        if not self.data_dir:
            raise SettingsError("data_dir is empty", "name a directory, or leave it out for the default")
        for name in ("listen", "http_listen"):
            self._check_address(name)
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            raise SettingsError("tls_cert and tls_key go together", f"set {missing} too, or neither")
        if not self.listen and not self.socket:
            raise SettingsError("listen and socket are both off: nobody could reach meshd", "set one of them")
        if self.lease_ttl_ms < 2 * self.beat_interval_ms:
            raise SettingsError(
                f"lease_ttl_ms {self.lease_ttl_ms} is less than twice beat_interval_ms {self.beat_interval_ms}",
                "one delayed beat would cost a lease: raise lease_ttl_ms or lower beat_interval_ms",
            )
        if not re.fullmatch(r"0?[0-7]{3}", self.socket_mode) or self.socket_mode[-1] != "0":
            raise SettingsError(
                f'socket_mode "{self.socket_mode}" is not an octal mode that shuts others out',
                'use "0600", or "0660" with socket_group',
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", self.issuer):
            raise SettingsError("issuer is not a name", "use 1 to 128 letters, digits and . _ : / -")

    def _check_address(self, name: str) -> None:
        address = getattr(self, name)
        if not address:
            return
        try:
            host, _ = split_address(address)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}", "use host:port, [ipv6]:port for IPv6") from None
        if not (is_loopback(host) or self.tls_cert or self.insecure):
            raise SettingsError(
                f"{name} {address} is not loopback and would be served without TLS",
                "set tls_cert and tls_key, or listen on 127.0.0.1; --insecure allows it all the same",
            )


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[ipv6]:port``. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f'"{address}" is not an address')
    if ":" in host and not bracketed:
        raise ValueError(f'"{address}" is not an address: IPv6 needs brackets')
    return (host[1:-1] if bracketed else host), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
