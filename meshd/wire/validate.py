"""Checks of fields that callers send. A check returns the value or raises a Refusal that names the field."""

from __future__ import annotations

import re
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import DEFAULT_PAGE_SIZE, MAX_DURATION_MS, MAX_PAGE_SIZE

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DOTTED = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?"
)
MAX_TRACEPARENT_BYTES = 256
SYSTEM_NAMESPACE = "_mesh"


def invalid(field: str, message: str) -> Refusal:
    """Return the refusal of a field's value."""
    return Refusal(Reason.INVALID_ARGUMENT, f"{field} {message}", field=field)


def shown(value: str) -> str:
    """Return the beginning of a value that was sent, as it appears in an error."""
    return repr(value if len(value) <= 40 else value[:40] + "…")


def namespace_name(value: str, field: str = "namespace") -> str:
    """Check a namespace's name, or the system namespace's."""
    if value == SYSTEM_NAMESPACE or LABEL.fullmatch(value):
        return value
    raise invalid(
        field,
        f"is {shown(value)}: use 1 to 63 of a-z, 0-9 and -, with no - at either end",
    )


def agent_id(value: str, field: str = "agent_id") -> str:
    """Check an agent id."""
    if not value:
        raise Refusal(Reason.FIELD_REQUIRED, f"{field} is empty; name the agent", field=field)
    if LABEL.fullmatch(value):
        return value
    raise invalid(
        field,
        f"is {shown(value)}: use 1 to 63 of a-z, 0-9 and -, with no - at either end",
    )


def task_id(value: str, field: str = "task_id") -> str:
    """Check a task id."""
    if not value:
        raise Refusal(Reason.FIELD_REQUIRED, f"{field} is empty; name the task", field=field)
    if TASK_ID.fullmatch(value):
        return value
    raise invalid(
        field,
        f"is {shown(value)}: start with a letter or digit, then up to 127 of A-Z a-z 0-9 . _ : / -",
    )


def dotted(value: str, field: str) -> str:
    """Check a capability or task type."""
    if DOTTED.fullmatch(value):
        return value
    if not value:
        raise Refusal(Reason.FIELD_REQUIRED, f"{field} is empty", field=field)
    raise invalid(
        field,
        f"is {shown(value)}: use 1 to 63 of a-z, 0-9, - and ., with a letter or digit at both ends",
    )


def capabilities(values: Iterable[str], limit: int, field: str) -> frozenset[str]:
    """Check a set of capabilities."""
    checked = frozenset(dotted(v, field) for v in values)
    if len(checked) > limit:
        raise invalid(field, f"has {len(checked)} entries; at most {limit} are allowed")
    return checked


def labels(values: dict[str, str], limit: int, field: str) -> dict[str, str]:
    """Check a map of labels."""
    if len(values) > limit:
        raise invalid(field, f"has {len(values)} entries; at most {limit} are allowed")
    for key, value in values.items():
        if not LABEL_KEY.fullmatch(key):
            raise invalid(field, f"has the name {shown(key)}: use 1 to 63 of A-Z a-z 0-9 . _ / -")
        text(value, 256, f"{field}.{key}")
    return dict(values)


def text(value: str, limit_bytes: int, field: str) -> str:
    """Check the length of free text."""
    if len(value) > limit_bytes or len(value.encode()) > limit_bytes:
        raise invalid(field, f"is longer than {limit_bytes} bytes")
    return value


def traceparent(value: str) -> str:
    """Return a W3C traceparent, or "" for a malformed one: the standard has receivers start anew, never fail."""
    match = TRACEPARENT.fullmatch(value) if len(value) <= MAX_TRACEPARENT_BYTES and value.isascii() else None
    # Version 00 ends with the flags; later ones may add to it, and are passed on as they are.
    return "" if match is None or (match[1] == "00" and match[2]) else value


def duration_ms(value: Duration, field: str, low_ms: int = 1, high_ms: int = MAX_DURATION_MS) -> int:
    """Check a duration and return milliseconds, rounded up."""
    milliseconds = value.seconds * 1000 - (-value.nanos // 1_000_000)
    if low_ms <= milliseconds <= high_ms:
        return milliseconds
    raise invalid(field, f"is {_length(milliseconds)}; allowed are {_length(low_ms)} to {_length(high_ms)}")


def _length(milliseconds: int) -> str:
    """Return a length of time in its largest unit that leaves no rest; a few days are hours."""
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds % size_ms == 0 and milliseconds >= (3 * size_ms if unit == "d" else size_ms):
            return f"{milliseconds // size_ms}{unit}"
    return f"{milliseconds}ms"


def number(value: float, low: float, high: float, field: str) -> float:
    """Check a number's range."""
    if low <= value <= high:
        return value
    raise invalid(field, f"is {value}; allowed are {low} to {high}")


def page_size(value: int) -> int:
    """Return the page size in force."""
    if value < 0:
        raise invalid(
            "page_size",
            f"is {value}; use 0 for {DEFAULT_PAGE_SIZE}, or 1 to {MAX_PAGE_SIZE}",
        )
    return min(value, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
