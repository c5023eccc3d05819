"""Reads what people type: durations, priorities, labels, lists and payloads.

Pure except for `read_payload`, which reads a file or standard input. Every function raises ValueError with
words for people when the text cannot be understood.
"""

from __future__ import annotations

import datetime
import json
import mimetypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

PRIORITY_WORDS = {"low": 2, "normal": 5, "high": 7, "critical": 9}

_JSON = "application/json"
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
# protobuf's Duration ends at about 10,000 years.
_MAX_DURATION_MS = 10_000 * 365 * _UNIT_MS["d"]


def parse_duration(text: str) -> datetime.timedelta:
    """Reads milliseconds ("300000") or a number with a unit ("5m", "30s", "1.5h", "1h30m", "250ms", "2d")."""
    compact = text.strip().lower()
    if re.fullmatch(r"[0-9]+", compact):
        total_ms = float(compact)
    else:
        parts = _DURATION_PART.findall(compact)
        if not parts or "".join(number + unit for number, unit in parts) != compact:
            raise ValueError(f"{text!r} is not a duration: write milliseconds (300000) or 30s, 5m, 2h")
        total_ms = sum(float(number) * _UNIT_MS[unit] for number, unit in parts)
    if not 1 <= total_ms <= _MAX_DURATION_MS:
        raise ValueError(f"{text!r} is out of range: at least 1 ms, at most 10,000 years")
    return datetime.timedelta(milliseconds=total_ms)


def parse_priority(text: str) -> int:
    """Reads low, normal, high, critical, or a number from 0 (last) to 9 (first)."""
    word = text.strip().lower()
    if word in PRIORITY_WORDS:
        return PRIORITY_WORDS[word]
    if re.fullmatch(r"[0-9]", word):
        return int(word)
    raise ValueError(f"{text!r} is not a priority: write {', '.join(PRIORITY_WORDS)} or a number from 0 to 9")


def split_list(texts: Iterable[str]) -> list[str]:
    """Joins comma-separated lists into one without blanks and repetitions, in the order typed."""
    items = (item.strip() for text in texts for item in text.split(","))
    return list(dict.fromkeys(item for item in items if item))


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Reads labels written as key=value."""
    labels: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"{text!r} is not a label: write key=value")
        labels[key.strip()] = value
    return labels


class PayloadContent(NamedTuple):
    """Bytes for a task and what they are."""

    content: bytes
    media_type: str


def read_payload(text: str, stdin: BinaryIO, max_bytes: int) -> PayloadContent:
    """Reads a payload: the text itself, `@FILE`, or `-` for standard input.

    Text and standard input are application/json when they parse as JSON, else text/plain or, when they are
    not UTF-8, application/octet-stream. A file's type follows from its name, and one called .json must be JSON.
    """
    if text == "-":
        content = _limited(stdin, "standard input", max_bytes)
        return PayloadContent(content, _media_type_of(content))
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        try:
            with path.open("rb") as file:
                content = _limited(file, str(path), max_bytes)
        except OSError as error:
            raise ValueError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if media_type == _JSON:
            _require_json(content, str(path))
        return PayloadContent(content, media_type)
    content = text.encode("utf-8", "surrogateescape")
    if len(content) > max_bytes:
        raise ValueError(_too_large("the payload", max_bytes))
    return PayloadContent(content, _media_type_of(content))


def _limited(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(_too_large(name, max_bytes))
    return content


def _too_large(name: str, max_bytes: int) -> str:
    return f"{name} is larger than {max_bytes:,} bytes, the most a task can carry inline"


def _media_type_of(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return "application/octet-stream"
    try:
        _parse_json(text)
    except (ValueError, RecursionError):
        return "text/plain"
    return _JSON


def looks_like_json(content: PayloadContent) -> bool:
    """True for text that opens like a JSON object or list and is none: the shell may have taken its quotes."""
    return content.media_type == "text/plain" and content.content.lstrip()[:1] in (b"{", b"[")


def _require_json(content: bytes, name: str) -> None:
    try:
        _parse_json(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        where = (
            f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise ValueError(f"{name} is not JSON{where and f' ({where})'}, as its name says it is") from None


def _parse_json(text: str) -> None:
    json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are Python's idea, not JSON's."""
    raise ValueError(name)
