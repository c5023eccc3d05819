"""Proof of possession by Ed25519.

Rule: keys of small order are refused when they are registered: for them signatures exist that nobody had to make.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_PRIME: Final = 2**255 - 19
_ORDER_8_Y: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
# The y coordinates of the eight points of small order; the sign bit of x does not matter.
_SMALL_ORDER_Y: Final = frozenset((0, 1, _PRIME - 1, _ORDER_8_Y, _PRIME - _ORDER_8_Y))


class Ed25519Proofs:
    """Implements the port ``Proofs``."""

    def valid_key(self, public_key: bytes) -> bool:
        """True for 32 bytes that are no key of small order."""
        if len(public_key) != 32:
            return False
        y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
        return y < _PRIME and y not in _SMALL_ORDER_Y

    def valid_signature(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Verify; anything malformed is simply not valid."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True
