"""Nonces for renewing a token by proof of possession, without any state to keep.

Invariant: a nonce is good for one agent, for 60 s, and for this life of the daemon: it is its own time and a MAC by a
secret that is never stored. Signing it proves possession of the key now; a nonce from elsewhere proves nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

NONCE_LIFETIME_MS: Final = 60_000
PROOF_CONTEXT: Final = b"agentmesh-renew-v1"


class Challenges:
    """Makes and recognises nonces."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def nonce(self, namespace: str, agent_id: str, now_ms: int) -> bytes:
        """Return a nonce for the agent: 8 bytes of time and 32 bytes of MAC."""
        stamp = now_ms.to_bytes(8, "big")
        return stamp + self._mac(stamp, namespace, agent_id)

    def valid(self, nonce: bytes, namespace: str, agent_id: str, now_ms: int) -> bool:
        """True when this daemon made the nonce for this agent within the last 60 s."""
        stamp, mac = nonce[:8], nonce[8:]
        if not hmac.compare_digest(mac, self._mac(stamp, namespace, agent_id)):
            return False
        return 0 <= now_ms - int.from_bytes(stamp, "big") <= NONCE_LIFETIME_MS

    def _mac(self, stamp: bytes, namespace: str, agent_id: str) -> bytes:
        message = b"\0".join((stamp, namespace.encode(), agent_id.encode()))
        return hmac.new(self._secret, message, hashlib.sha256).digest()


def proof_message(namespace: str, agent_id: str, nonce: bytes) -> bytes:
    """Return what the agent signs, as the contract documents it."""
    return b"\0".join((PROOF_CONTEXT, namespace.encode(), agent_id.encode(), nonce))
