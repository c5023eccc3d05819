"""Tokens: EdDSA JWTs by PyJWT, behind a strict reader.

Rule: a token has exactly the header and the claims written here, of exactly these types, in canonical base64url, and
one signature algorithm; everything else is refused. PyJWT checks the signature and nothing else: its own checks are
lenient and ask the system's clock.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from meshd.domain.errors import Reason, Refusal
from meshd.domain.grants import (
    MAX_OPERATOR_LIFETIME_MS,
    MAX_TOKEN_LIFETIME_MS,
    holder,
    is_operator_family,
    token_expired,
)
from meshd.domain.records import SigningKeyRecord
from meshd.domain.values import AgentType
from meshd.ports.tokens import TokenClaims
from meshd.security.keys import SigningKey

ALGORITHM: Final = "EdDSA"
TYPE: Final = "mesh-at+jwt"
AUDIENCE: Final = "agentmesh"
MAX_TOKEN_BYTES: Final = 4_096
CLOCK_SKEW_S: Final = 30
"""Tolerated between the clocks that issued and verify, for the beginning of a token; never for its end."""

_CLAIM_TYPES: Final[dict[str, type]] = {
    "iss": str,
    "aud": str,
    "sub": str,
    "ns": str,
    "agent_type": str,
    "caps": list,
    "scope": list,
    "jti": str,
    "fam": str,
    "gen": int,
    "iat": int,
    "nbf": int,
    "exp": int,
}


class JwtTokens:
    """Implements the port ``Tokens`` with one signing key."""

    def __init__(self, key: SigningKey, issuer: str) -> None:
        self._key = key
        self._issuer = issuer
        self._public_key = key.private_key.public_key()
        self._jws = PyJWS(algorithms=[ALGORITHM])

    def sign(self, claims: TokenClaims) -> str:
        """Return the token. Raises Refusal when the claims do not fit its greatest length."""
        issue_s = claims.issue_ms // 1_000
        content = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": claims.subject,
            "ns": claims.namespace,
            "agent_type": claims.agent_type.name.lower() if claims.agent_type else "",
            "caps": list(claims.capabilities),
            "scope": list(claims.scope),
            "jti": claims.token_id,
            "fam": claims.family,
            "gen": claims.generation,
            "iat": issue_s,
            "nbf": issue_s,
            "exp": claims.expire_ms // 1_000,
        }
        token = self._jws.encode(
            json.dumps(content, separators=(",", ":")).encode(),
            self._key.private_key,
            algorithm=ALGORITHM,
            headers={"typ": TYPE, "kid": self._key.key_id},
        )
        if len(token) > MAX_TOKEN_BYTES:
            message = f"the token would have {len(token)} bytes, more than {MAX_TOKEN_BYTES}; name fewer capabilities"
            raise Refusal(Reason.INVALID_ARGUMENT, message, field="capabilities")
        return token

    def verify(self, token: str, now_ms: int, *, allow_expired: bool = False) -> TokenClaims:
        """Return what a genuine token says. Raises Refusal TOKEN_INVALID or TOKEN_EXPIRED."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _invalid("its length or alphabet is wrong")
        header, payload = self._parts(token)
        if header != {"alg": ALGORITHM, "typ": TYPE, "kid": self._key.key_id}:
            raise _invalid(
                "its header is not the one this daemon signs with; join again if the signing key changed"
            )
        try:
            self._jws.decode_complete(token, self._public_key, algorithms=[ALGORITHM])
        except PyJWTError:
            raise _invalid("its signature is wrong") from None
        return _read_claims(payload, self._issuer, now_ms // 1_000, allow_expired=allow_expired)

    def signing_key(self) -> SigningKeyRecord:
        """Return the public half of the key that signs now."""
        return SigningKeyRecord(self._key.key_id, self._key.public_bytes, self._key.create_ms)

    def _parts(self, token: str) -> tuple[Any, Any]:
        parts = token.split(".")
        if len(parts) != 3:
            raise _invalid("it is no signed token of three parts")
        try:
            header, payload, _ = (_canonical_decode(part) for part in parts)
            return json.loads(header), json.loads(payload)
        except (ValueError, RecursionError):
            raise _invalid("it cannot be decoded") from None


def _canonical_decode(part: str) -> bytes:
    # Python's decoder skips foreign characters and ignores spare bits: one token would have many spellings.
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
        raise binascii.Error("not canonical")
    return decoded


def _read_claims(content: Any, issuer: str, now_s: int, *, allow_expired: bool) -> TokenClaims:
    if not isinstance(content, dict) or content.keys() != _CLAIM_TYPES.keys():
        raise _invalid("its claims are not those of the profile")
    for claim, kind in _CLAIM_TYPES.items():
        if type(content[claim]) is not kind:  # A bool is an int for isinstance.
            raise _invalid(f"its claim {claim} has the wrong type")
    for claim in ("caps", "scope"):
        if not all(isinstance(entry, str) for entry in content[claim]):
            raise _invalid(f"its claim {claim} has the wrong type")
    if content["iss"] != issuer or content["aud"] != AUDIENCE:
        raise _invalid("it was issued by or for somebody else")
    if not content["jti"]:
        raise _invalid("its claim jti is empty")
    agent_type = _read_holder(content)
    begin_s, expire_s = content["iat"], content["exp"]
    max_s = (MAX_TOKEN_LIFETIME_MS if agent_type else MAX_OPERATOR_LIFETIME_MS) // 1_000
    if begin_s < 0 or content["nbf"] != begin_s or not 0 < expire_s - begin_s <= max_s:
        raise _invalid(f"its claims iat, nbf and exp span no lifetime within {max_s} s")
    if begin_s > now_s + CLOCK_SKEW_S:
        raise _invalid("it is not valid yet; compare the clocks")
    if expire_s <= now_s and not allow_expired:
        raise token_expired(for_operator=agent_type is None)
    return TokenClaims(
        subject=content["sub"],
        namespace=content["ns"],
        agent_type=agent_type,
        capabilities=tuple(content["caps"]),
        scope=tuple(content["scope"]),
        token_id=content["jti"],
        family=content["fam"],
        generation=content["gen"],
        issue_ms=content["iat"] * 1_000,
        expire_ms=expire_s * 1_000,
    )


def _read_holder(content: dict[str, Any]) -> AgentType | None:
    """Check that sub, ns, agent_type, fam and gen speak of the same holder."""
    kind, _, name = content["sub"].partition(":")
    namespace, word = content["ns"], content["agent_type"]
    family, generation = content["fam"], content["gen"]
    if is_operator_family(family):
        if kind == "operator" and name and not (namespace or word) and holder(family) == (name, generation):
            return None
        raise _invalid("its claims sub, ns, agent_type, fam and gen do not agree")
    owner, _, agent_id = name.partition("/")
    if kind == "agent" and namespace and owner == namespace and holder(family) == (agent_id, generation):
        try:
            agent_type = AgentType[word.upper()]
        except KeyError:
            raise _invalid("its claim agent_type is unknown") from None
        if agent_type.name.lower() == word:
            return agent_type
    raise _invalid("its claims sub, ns, agent_type, fam and gen do not agree")


def _invalid(why: str) -> Refusal:
    return Refusal(Reason.TOKEN_INVALID, f"the token is not valid: {why}")
