"""Times, durations and enums between contract and domain."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from meshd.wire.validate import invalid

E = TypeVar("E", bound=IntEnum)


def timestamp(wall_ms: int) -> Timestamp:
    """Return a timestamp of wall-clock milliseconds."""
    return Timestamp(seconds=wall_ms // 1000, nanos=wall_ms % 1000 * 1_000_000)


def write_timestamp(message: Timestamp, wall_ms: int) -> None:
    """Write wall-clock milliseconds into a timestamp that is part of another message."""
    message.seconds = wall_ms // 1000
    message.nanos = wall_ms % 1000 * 1_000_000


def duration(milliseconds: int) -> Duration:
    """Return a duration of milliseconds."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def enum(kind: type[E], value: int, field: str, default: E | None = None) -> E:
    """Return the domain's member for a number of the contract. Raises Refusal for unknown ones."""
    if value == 0 and default is not None:
        return default
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(member.name for member in kind)
        raise invalid(field, f"is {value}, which is none of {names}") from None
