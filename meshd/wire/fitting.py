"""What fits into one message: answers are cut by bytes before count, so that none exceeds the limit of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

from meshd.domain.limits import MAX_MESSAGE_BYTES

M = TypeVar("M", bound=Message)

ENTRY_BYTES: Final = 8
"""More than tag and length of an entry in a repeated field take."""
HEADROOM_BYTES: Final = 16 * 1024
"""Left for what stands beside the entries, such as a page token."""


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
