"""Port of proofs: that a caller possesses the private half of a registered key."""

from __future__ import annotations

from typing import Protocol


class Proofs(Protocol):
    """Checks Ed25519 keys and signatures."""

    def valid_key(self, public_key: bytes) -> bool:
        """True when these bytes are a usable public key."""

    def valid_signature(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """True when the signature over the message was made by the private half of the key. Never raises."""
