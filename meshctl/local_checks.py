"""What `meshctl doctor` finds out without calling the mesh: profiles, socket, connection, certificate."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import stat
import time
from pathlib import Path

from agentmesh.connection import Target
from meshctl import profiles
from meshctl.checks import Check, ok, skipped, wrong
from meshctl.output import length_of
from meshctl.problems import Problem

CONNECT_TIMEOUT_S = 3.0
CERTIFICATE_WARNING_S = 14 * 86_400
NAME_A_CA = "name the authority that signed meshd's certificate: --ca FILE"
#: OpenSSL's X509_V_ERR_… by their numbers.
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def profile_file() -> Check:
    """Tells whether the stored profiles can be used."""
    try:
        known = profiles.load()
    except Problem as problem:
        return wrong("profiles", problem.what, problem.next_step)
    if not known.by_name:
        return ok("profiles", "none stored")
    return ok("profiles", f"{len(known.by_name)} in {profiles.file_path()}, in use: {known.active or 'none'}")


def socket_rights(target: Target) -> Check:
    """Tells whether this user may open the operator socket."""
    if not target.is_socket:
        return skipped("socket", "the address is no socket")
    path = Path(target.address.removeprefix("unix:"))
    try:
        status = path.stat()
    except OSError as error:
        return wrong(
            "socket", f"{path}: {error.strerror}", "start meshd, or name its socket: --address unix:/path"
        )
    if not stat.S_ISSOCK(status.st_mode):
        return wrong("socket", f"{path} is no socket", "name meshd's socket: --address unix:/path")
    words = f"{path} has mode {stat.S_IMODE(status.st_mode):04o} and belongs to {_user_name(status.st_uid)}"
    if not os.access(path, os.R_OK | os.W_OK):
        return wrong(
            "socket", f"{words}: you may not open it", "join its group, or log in over TCP: meshctl login"
        )
    if status.st_mode & stat.S_IWOTH:  # to connect is to write
        return wrong("socket", f"{words}: every user of this host is an operator", f"chmod o= {path}")
    return ok("socket", words)


def connects(target: Target) -> Check:
    """Tells whether something listens at the address."""
    try:
        _connect(target).close()
    except socket.gaierror as error:
        host = host_and_port(target)[0]
        words = f"the name {host} does not resolve: {error.strerror}"
        return wrong("connection", words, f"check its spelling, then the DNS: getent hosts {host}")
    except TimeoutError:
        words = f"{target.address} does not answer within {CONNECT_TIMEOUT_S:.0f} s"
        return wrong("connection", words, "check the host, the network and the firewall in between")
    except OSError as error:
        words = f"nothing can be reached at {target.address}: {error.strerror or error}"
        return wrong(
            "connection", words, "start meshd there, or compare the address with its setting `listen`"
        )
    return ok("connection", f"something listens at {target.address}")


def certificate(target: Target) -> tuple[Check, bool]:
    """Tells whether the server's certificate is good for this CA and host, how long still, and whether calls can go."""
    if not target.uses_tls and speaks_tls(target):
        return wrong(
            "tls", f"what listens at {target.address} speaks TLS, and no CA is given", NAME_A_CA
        ), False
    if not target.uses_tls:
        why = "the address does not leave this host" if target.is_loopback else "--insecure was spelled out"
        return skipped("tls", f"not used: {why}"), True
    host, _ = host_and_port(target)
    try:
        context = ssl.create_default_context(cafile=target.ca)
    except OSError as error:
        words = f"the CA file {target.ca} is of no use: {error.strerror or 'no PEM in it'}"
        next_step = "name the PEM file of the authority that signed meshd's certificate: --ca FILE"
        return wrong("tls", words, next_step), False
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(target) as plain, context.wrap_socket(plain, server_hostname=host) as wrapped:
            peer = wrapped.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return _not_verified(error, target, host), False
    except OSError as error:  # ssl.SSLError is one
        words = f"no TLS is spoken at {target.address} ({getattr(error, 'reason', None) or error.strerror})"
        next_step = (
            "set tls_cert and tls_key for meshd, or leave out --ca where it serves loopback without TLS"
        )
        return wrong("tls", words, next_step), False
    left_s = ssl.cert_time_to_seconds(str(peer["notAfter"])) - time.time()
    words = f"the certificate is good for {host}, signed by {target.ca}, for {length_of(left_s)} more"
    if left_s < CERTIFICATE_WARNING_S:
        return wrong("tls", words, "renew tls_cert on meshd's host and restart meshd"), True
    return ok("tls", words), True


def speaks_tls(target: Target) -> bool:
    """Tells whether what listens at a TCP address begins with TLS, whoever signed its certificate."""
    if target.is_socket:
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent over it
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(target) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def host_and_port(target: Target) -> tuple[str, int]:
    """Returns host and port of an address that is no socket."""
    host, _, port = target.address.rpartition(":")
    return host.strip("[]"), int(port)


def _connect(target: Target) -> socket.socket:
    if not target.is_socket:
        return socket.create_connection(host_and_port(target), CONNECT_TIMEOUT_S)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.settimeout(CONNECT_TIMEOUT_S)
        connected.connect(target.address.removeprefix("unix:"))
    except OSError:
        connected.close()
        raise
    return connected


def _not_verified(error: ssl.SSLCertVerificationError, target: Target, host: str) -> Check:
    renew = "renew tls_cert on meshd's host and restart meshd"
    words, next_step = {
        _EXPIRED: ("has expired", renew),
        _NOT_YET_VALID: ("is not valid yet", "compare the clocks of both hosts: timedatectl"),
        _OTHER_HOST: (
            f"is not for {host}",
            f"use a name that it is for, or issue one with subjectAltName=DNS:{host}",
        ),
        _OTHER_ADDRESS: (
            f"is not for {host}",
            f"use a name that it is for, or issue one with subjectAltName=IP:{host}",
        ),
    }.get(
        error.verify_code,
        (
            f"is not signed by {target.ca} ({error.verify_message})",
            "ask meshd's operator for the CA, and pass it as --ca",
        ),
    )
    return wrong("tls", f"the certificate at {target.address} {words}", next_step)


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)
