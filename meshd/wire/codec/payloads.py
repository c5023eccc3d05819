"""Payloads of callers and results of agents: one check for both, so that each fits into every message that carries it.

Invariant: what is kept of a payload, as it is sent on, takes at most MAX_PAYLOAD_BYTES; two of them fit into a message,
and one into the smallest message that an agent may ask for.
"""

from __future__ import annotations

from typing import Final

from agentmesh.v1 import payload_pb2
from meshd.domain.errors import Reason, Refusal
from meshd.domain.limits import (
    MAX_INLINE_BYTES,
    MAX_MEDIA_TYPE_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_METADATA_TEXT_BYTES,
    MAX_PAYLOAD_BYTES,
)
from meshd.wire import validate

UNREMARKABLE_BYTES: Final = 64
"""So little beside the bytes holds no media type and no metadata beyond their limits."""


def encoded(payload: payload_pb2.Payload, field: str, noun: str) -> bytes:
    """Check a payload and return it as it is kept and sent on. Raises Refusal."""
    size_bytes = len(payload.inline)
    if size_bytes > MAX_INLINE_BYTES:
        message = f"the {noun} has {size_bytes} bytes; at most {MAX_INLINE_BYTES} fit inline"
        raise _too_large(field, message, size_bytes, MAX_INLINE_BYTES)
    if not size_bytes and payload.HasField("ref"):
        raise validate.invalid(
            f"{field}.ref", "names bytes kept elsewhere, which this daemon does not; send them inline"
        )
    kept = payload.SerializeToString()
    if len(kept) > size_bytes + UNREMARKABLE_BYTES:
        _check_rest(payload, len(kept), field, noun)
    return kept


def _check_rest(payload: payload_pb2.Payload, kept_bytes: int, field: str, noun: str) -> None:
    validate.text(payload.media_type, MAX_MEDIA_TYPE_BYTES, f"{field}.media_type")
    if len(payload.metadata) > MAX_METADATA_ENTRIES:
        raise validate.invalid(
            f"{field}.metadata",
            f"has {len(payload.metadata)} entries; at most {MAX_METADATA_ENTRIES} are allowed",
        )
    for key, value in payload.metadata.items():
        validate.text(key, MAX_METADATA_TEXT_BYTES, f"{field}.metadata")
        validate.text(value, MAX_METADATA_TEXT_BYTES, f"{field}.metadata")
    if kept_bytes > MAX_PAYLOAD_BYTES:
        message = (
            f"the {noun} has {kept_bytes} bytes with all its fields, those unknown here included; "
            f"at most {MAX_PAYLOAD_BYTES} are allowed"
        )
        raise _too_large(field, message, kept_bytes, MAX_PAYLOAD_BYTES)


def _too_large(field: str, message: str, size_bytes: int, limit_bytes: int) -> Refusal:
    metadata = {"size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes)}
    return Refusal(Reason.TOO_LARGE, message, field=field, metadata=metadata)
