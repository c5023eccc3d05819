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

from agentmesh.connection import MAX_INLINE_BYTES
from agentmesh.errors import InvalidRequest, TooLarge
from agentmesh.v1.payload_pb2 import Payload

__all__ = ["Json", "Payload", "PayloadLike", "decode_payload", "encode_payload"]

#: What `json.dumps` takes; loose inside, since that is the user's.
Json: TypeAlias = Mapping[str, object] | Sequence[object] | str | int | float | bool | None
PayloadLike: TypeAlias = Payload | bytes | bytearray | memoryview | Json

BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def encode_payload(value: PayloadLike, *, max_bytes: int = MAX_INLINE_BYTES) -> Payload:
    """Makes a payload. Raises TooLarge beyond `max_bytes`, InvalidRequest for what JSON cannot hold."""
    if isinstance(value, Payload):
        payload = value
    elif value is None:
        return Payload()
    elif isinstance(value, (bytes, bytearray, memoryview)):
        payload = Payload(inline=bytes(value), media_type=BYTES)
    elif isinstance(value, str):
        payload = Payload(inline=value.encode(), media_type=TEXT)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            payload = Payload(inline=text.encode(), media_type=JSON)
        except (TypeError, ValueError) as error:
            # Its text may quote the value, which stays here.
            raise InvalidRequest(
                f"a {type(value).__name__} does not fit into JSON: pass bytes, str or JSON values"
            ) from error
    size_bytes = len(payload.inline)
    if size_bytes > max_bytes:
        raise TooLarge(
            f"the payload is {size_bytes} bytes, the limit is {max_bytes}: keep it elsewhere and pass its address",
            reason="TOO_LARGE",
            metadata={"size_bytes": str(size_bytes), "limit_bytes": str(max_bytes)},
        )
    return payload


def decode_payload(payload: Payload) -> object:
    """The value: JSON and text by media type, None when empty and untyped, otherwise bytes."""
    media_type = payload.media_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return json.loads(payload.inline)
    if media_type.startswith("text/"):
        return payload.inline.decode()
    return payload.inline if payload.inline or media_type else None
