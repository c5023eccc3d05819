"""Page tokens: where the next page of a list begins, opaque to callers.

Rule: a token belongs to one kind of list and one set of conditions, and is refused anywhere else. Its check is no
secret: a caller who forges one gets another page of a list it may read anyway.
"""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import Final

from meshd.domain.errors import Reason, Refusal

CHECK_BYTES: Final = 8
MAX_TOKEN_CHARACTERS: Final = 1_024
MAX_KEY: Final = 2**63 - 1
"""Largest key of a row."""


def encode(kind: str, conditions: str, position: str) -> str:
    """Return the token of the page after ``position`` in a list of this kind under these conditions."""
    content = _check(kind, conditions, position) + position.encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(kind: str, conditions: str, token: str) -> str:
    """Return the position in a token. Raises Refusal INVALID_PAGE_TOKEN."""
    try:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        position = content[CHECK_BYTES:].decode()
    except ValueError:
        raise _foreign() from None
    if content[:CHECK_BYTES] != _check(kind, conditions, position):
        raise _foreign()
    return position


def decode_key(kind: str, conditions: str, token: str) -> int:
    """Return the key of a row in a token, which may be forged. Raises Refusal INVALID_PAGE_TOKEN."""
    position = decode(kind, conditions, token)
    if not position.isdecimal() or int(position) > MAX_KEY:
        raise _foreign()
    return int(position)


def _check(kind: str, conditions: str, position: str) -> bytes:
    digest = blake2b(digest_size=CHECK_BYTES)
    for part in (kind, conditions, position):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.digest()


def _foreign() -> Refusal:
    message = "the page token is not one of this list under these conditions; start again without it"
    return Refusal(Reason.INVALID_PAGE_TOKEN, message, field="page_token")
