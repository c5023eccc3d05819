"""Port of signed tokens: the engine says what a token means, the security floor signs and verifies it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from meshd.domain.records import SigningKeyRecord
from meshd.domain.values import AgentType


class TokenClaims(NamedTuple):
    """What a token says."""

    subject: str
    """``agent:<namespace>/<agent id>`` or ``operator:<name>``."""
    namespace: str
    """Empty for operators."""
    agent_type: AgentType | None
    """None for operators."""
    capabilities: tuple[str, ...]
    scope: tuple[str, ...]
    token_id: str
    family: str
    generation: int
    issue_ms: int
    """Whole seconds; so is the end."""
    expire_ms: int


class Tokens(Protocol):
    """Signs and verifies tokens by the daemon's own key."""

    def sign(self, claims: TokenClaims) -> str:
        """Return the token."""

    def verify(self, token: str, now_ms: int, *, allow_expired: bool = False) -> TokenClaims:
        """Return what a genuine token says. Raises Refusal TOKEN_INVALID or TOKEN_EXPIRED.

        ``allow_expired`` accepts one that has run out: for revoking it, never for a call.
        """

    def signing_key(self) -> SigningKeyRecord:
        """Return the public half of the key that signs now."""
