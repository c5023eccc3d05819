"""The server's certificate and key: read and checked before anything listens, and again when told to.

Rule: a certificate that cannot work takes no other's place.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from meshd.config import StartError

WARN_DAYS: Final = 14
DAY_S: Final = 86_400

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate chain with its key, as gRPC and as the HTTP port take them."""

    cert_pem: bytes
    key_pem: bytes
    context: ssl.SSLContext
    expire_s: float
    """End of the server's own certificate, in seconds since 1970."""

    def __repr__(self) -> str:
        return "Tls()"


class Served:
    """The certificate that new connections are shown."""

    def __init__(self, cert: str, key: str, first: Tls) -> None:
        self.current = first
        self.context = first.context
        """Of the HTTP port; what is read again goes into it."""
        self._cert = cert
        self._key = key
        self._warn()

    def read_again(self) -> None:
        """Take what the files hold now; when that cannot work, the log says why and nothing changes."""
        try:
            fresh = load(self._cert, self._key)
            assert fresh is not None
            self.context.load_cert_chain(self._cert, self._key)
        except (StartError, OSError) as error:
            log.warning(
                "the certificate was not read again; the one before stays in use",
                error=str(error).replace("\n", "; "),
            )
            return
        self.current = fresh
        log.info("the certificate was read again", expire_time=_day(fresh.expire_s))
        self._warn()

    async def warn_forever(self) -> None:
        """Say once a day that the certificate ends soon."""
        while True:
            await asyncio.sleep(DAY_S)
            self._warn()

    def _warn(self) -> None:
        left_s = self.current.expire_s - time.time()
        if left_s < WARN_DAYS * DAY_S:
            log.warning(
                "the certificate has ended: clients refuse it; renew it, then send SIGHUP"
                if left_s < 0
                else "the certificate ends soon; renew it, then send SIGHUP",
                tls_cert=self._cert,
                expire_time=_day(self.current.expire_s),
            )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="minutes")


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
    own = x509.load_pem_x509_certificates(pems[0])[0]
    return Tls(pems[0], pems[1], context, own.not_valid_after_utc.timestamp())


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartError(
            f"{setting} {path} cannot be read: {error.strerror}", "check the path and its owner"
        ) from None
