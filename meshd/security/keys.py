"""The daemon's signing key: a file that only the daemon may read.

Rule: the directory has mode 0700 and the file 0600; looser modes refuse the start instead of being tightened, because
somebody may have read the key already. The private half never leaves this room.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

KEY_FOLDER: Final = "keys"
"""Within the data directory."""
KEY_FILE: Final = "signing.pem"


class KeyFileError(Exception):
    """The signing key cannot be used; the message names the file and the next step."""


class SigningKey:
    """An Ed25519 key pair."""

    def __init__(self, private_key: Ed25519PrivateKey, create_ms: int) -> None:
        self.private_key = private_key
        self.public_bytes = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = thumbprint(self.public_bytes)
        self.create_ms = create_ms


def load_signing_key(directory: Path) -> SigningKey:
    """Return the key kept in the directory, made durable there at the first start. Raises KeyFileError."""
    path = directory / KEY_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(directory, 0o700)
        if not path.exists():
            _create(path)
        _require_private(path, 0o600)
        private_key = load_pem_private_key(path.read_bytes(), password=None)
        create_ms = int(path.stat().st_mtime * 1_000)
    except OSError as error:
        raise KeyFileError(
            f"the signing key {path} cannot be used: {error.strerror}; see to its disk and permissions"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = f"{path} holds no unencrypted PEM key; restore it, or remove it to make a new one (all tokens end)"
        raise KeyFileError(message) from None
    if not isinstance(private_key, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path} holds no Ed25519 key; restore it, or remove it to make a new one (all tokens end)"
        )
    return SigningKey(private_key, create_ms)


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _require_private(path: Path, mode: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise KeyFileError(f"{path} is a symbolic link; put the key itself there")
    actual = stat.S_IMODE(found.st_mode)
    if actual & ~mode:
        message = f"{path} has mode {actual:04o}: others may have read the key; check it, then chmod {mode:04o} {path}"
        raise KeyFileError(message)
    if found.st_uid != os.geteuid():
        raise KeyFileError(f"{path} belongs to another user; the daemon's own user must own it")


def public_jwk(public_key: bytes) -> dict[str, str]:
    """Return a public key as JWK (RFC 8037)."""
    x = base64.urlsafe_b64encode(public_key).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x}


def thumbprint(public_key: bytes) -> str:
    """Return the JWK thumbprint (RFC 7638) of a public key: its id."""
    canonical = json.dumps(public_jwk(public_key), sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def jwks(public_keys: list[bytes]) -> dict[str, Any]:
    """Return the key set that the side port serves at /.well-known/jwks.json."""
    return {
        "keys": [
            {**public_jwk(public_key), "kid": thumbprint(public_key), "alg": "EdDSA", "use": "sig"}
            for public_key in public_keys
        ]
    }
