"""The server's certificate and key, read and checked once, before anything listens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from meshd.config import StartError


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate chain with its key, as gRPC and as the HTTP port take them."""

    cert_pem: bytes
    key_pem: bytes
    context: ssl.SSLContext

    def __repr__(self) -> str:
        return "Tls()"


def load(cert: str, key: str) -> Tls | None:
    """Return the certificate of both files, or None when none is set. Raises StartError."""
    if not cert:
        return None
    pems = [_read("tls_cert", cert), _read("tls_key", key)]
    if b"ENCRYPTED" in pems[1]:
        raise StartError(
            f"tls_key {key} is encrypted", "decrypt it with: openssl pkey -in KEY -out PLAIN; keep it 0600"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartError(
                f"tls_key {key} does not belong to the first certificate in tls_cert {cert}",
                "put the server's own certificate first, then the chain; compare: openssl x509 -pubkey, openssl pkey -pubout",
            ) from None
        raise StartError(
            f"tls_cert {cert} and tls_key {key} are not usable PEM files", "check what they hold"
        ) from None
    return Tls(pems[0], pems[1], context)


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartError(
            f"{setting} {path} cannot be read: {error.strerror}", "check the path and its owner"
        ) from None
