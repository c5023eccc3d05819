"""Payloads: how Python values become the bytes that travel with tasks and results, and back.

bytes               travel as they are            application/octet-stream
str                 UTF-8                         text/plain; charset=utf-8
None                nothing                       (no media type)
Payload             is taken as it is
everything else     JSON                          application/json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from agentmesh.connection import MAX_INLINE_BYTES, MAX_PAYLOAD_BYTES
from agentmesh.errors import InvalidRequest, TooLarge
from agentmesh.v1.payload_pb2 import Payload

__all__ = ["Json", "Payload", "PayloadLike", "decode_payload", "encode_payload"]

#: What `json.dumps` takes; loose inside, since that is the user's.
Json: TypeAlias = Mapping[str, object] | Sequence[object] | str | int | float | bool | None
PayloadLike: TypeAlias = Payload | bytes | bytearray | memoryview | Json

BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
MAX_MEDIA_TYPE_BYTES = 255
MAX_METADATA_ENTRIES = 16
MAX_METADATA_TEXT_BYTES = 256


def encode_payload(value: PayloadLike, *, max_bytes: int = MAX_INLINE_BYTES) -> Payload:
    """Makes a payload. Raises TooLarge beyond `max_bytes`, InvalidRequest for what JSON or the contract cannot hold."""
    if isinstance(value, Payload):
        payload = value
        _check(payload)
    elif value is None:
        return Payload()
    elif isinstance(value, (bytes, bytearray, memoryview)):
        payload = Payload(inline=bytes(value), media_type=BYTES)
    elif isinstance(value, str):
        try:
            payload = Payload(inline=value.encode(), media_type=TEXT)
        except UnicodeEncodeError:
            # Its text quotes the value, and so would a chain of causes.
            raise InvalidRequest("a str with lone surrogates is not UTF-8: pass bytes") from None
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            payload = Payload(inline=text.encode(), media_type=JSON)
        except (TypeError, ValueError, RecursionError) as error:
            # Its text may quote the value, which stays here.
            raise InvalidRequest(
                f"a {type(value).__name__} does not fit into JSON: pass bytes, str or JSON values"
            ) from error
    if len(payload.inline) > max_bytes:
        raise _too_large("the payload", len(payload.inline), max_bytes)
    return payload


def _check(payload: Payload) -> None:
    """Refuses what the daemon would: refused there, a result ends the stream and comes again on the next one."""
    if payload.HasField("ref"):
        raise InvalidRequest(
            "a payload's ref is not taken yet: pass the bytes inline, or an address of your own"
        )
    if len(payload.media_type.encode()) > MAX_MEDIA_TYPE_BYTES:
        raise InvalidRequest(f"a payload's media type has at most {MAX_MEDIA_TYPE_BYTES} bytes")
    texts = [text for entry in payload.metadata.items() for text in entry]
    if len(payload.metadata) > MAX_METADATA_ENTRIES or any(
        len(text.encode()) > MAX_METADATA_TEXT_BYTES for text in texts
    ):
        raise InvalidRequest(
            f"a payload's metadata has at most {MAX_METADATA_ENTRIES} entries, "
            f"each name and text at most {MAX_METADATA_TEXT_BYTES} bytes"
        )
    size_bytes = payload.ByteSize()
    if size_bytes > MAX_PAYLOAD_BYTES and len(payload.inline) <= MAX_INLINE_BYTES:
        raise _too_large("the payload with all its fields", size_bytes, MAX_PAYLOAD_BYTES)


def _too_large(noun: str, size_bytes: int, limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"{noun} is {size_bytes} bytes, the limit is {limit_bytes}: keep it elsewhere and pass its address",
        reason="TOO_LARGE",
        metadata={"size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes)},
    )


def decode_payload(payload: Payload) -> object:
    """The value: JSON and text by media type, None when empty and untyped, otherwise bytes.

    Raises InvalidRequest when the bytes are not what their media type says.
    """
    media_type = payload.media_type.partition(";")[0].strip().lower()
    try:
        if media_type == JSON:
            return json.loads(payload.inline)
        if media_type.startswith("text/"):
            return payload.inline.decode()
    except (ValueError, RecursionError):
        # The error's text may quote the value.
        what = "JSON that can be read" if media_type == JSON else "UTF-8"
        raise InvalidRequest(
            f"a payload says it is {media_type} and is not {what}: its bytes are in `inline`"
        ) from None
    return payload.inline if payload.inline or media_type else None
