"""What fits into one message: answers are cut by bytes before count, so that none exceeds the limit of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

from meshd.domain.limits import MAX_MESSAGE_BYTES

M = TypeVar("M", bound=Message)

MORE: Final = "…"
MAX_CHARACTER_BYTES: Final = 4
ENTRY_BYTES: Final = 8
"""More than tag and length of an entry in a repeated field take."""
HEADROOM_BYTES: Final = 16 * 1024
"""Left for what stands beside the entries, such as a page token."""


def shortened(text: str, limit_bytes: int) -> str:
    """Return words for people, or as much of their beginning as fits, and a sign that there was more."""
    if len(text) * MAX_CHARACTER_BYTES <= limit_bytes:
        return text
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - len(MORE.encode())].decode(errors="ignore") + MORE


def fitting(messages: Iterable[M], limit_bytes: int = MAX_MESSAGE_BYTES - HEADROOM_BYTES) -> list[M]:
    """Return as many of the messages as fit into one, the first in any case; what is not asked for is not made."""
    fits: list[M] = []
    size_bytes = 0
    for message in messages:
        size_bytes += message.ByteSize() + ENTRY_BYTES
        if size_bytes > limit_bytes and fits:
            break
        fits.append(message)
    return fits
