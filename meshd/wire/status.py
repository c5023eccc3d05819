"""Refusals as gRPC statuses.

Rule: every error carries a google.rpc.Status in ``grpc-status-details-bin`` with exactly one ErrorInfo, whose reason
is a name of ErrorReason; RetryInfo and BadRequest follow where they apply. Only the chain calls this.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from meshd.domain.errors import Reason, Refusal

DOMAIN: Final = "agentmesh"
DETAILS_KEY: Final = "grpc-status-details-bin"
MAX_MESSAGE_BYTES: Final = 600
"""Most clients take 8 KiB of metadata; the message travels three times, once with every byte escaped as three."""

_Code = grpc.StatusCode
CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.INVALID_ARGUMENT: _Code.INVALID_ARGUMENT,
    Reason.FIELD_REQUIRED: _Code.INVALID_ARGUMENT,
    Reason.INVALID_PAGE_TOKEN: _Code.INVALID_ARGUMENT,
    Reason.TOO_LARGE: _Code.RESOURCE_EXHAUSTED,
    Reason.NAMESPACE_NOT_FOUND: _Code.NOT_FOUND,
    Reason.NAMESPACE_EXISTS: _Code.ALREADY_EXISTS,
    Reason.AGENT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.TASK_NOT_FOUND: _Code.NOT_FOUND,
    Reason.TASK_EXISTS: _Code.ALREADY_EXISTS,
    Reason.SESSION_NOT_FOUND: _Code.FAILED_PRECONDITION,
    Reason.STREAM_SUPERSEDED: _Code.ABORTED,
    Reason.PROTOCOL_VIOLATION: _Code.INVALID_ARGUMENT,
    Reason.TOKEN_MISSING: _Code.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: _Code.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: _Code.UNAUTHENTICATED,
    Reason.TOKEN_REVOKED: _Code.UNAUTHENTICATED,
    Reason.JOIN_TOKEN_INVALID: _Code.UNAUTHENTICATED,
    Reason.PROOF_INVALID: _Code.UNAUTHENTICATED,
    Reason.ACCESS_DENIED: _Code.PERMISSION_DENIED,
    Reason.NAMESPACE_MISMATCH: _Code.PERMISSION_DENIED,
    Reason.IDENTITY_MISMATCH: _Code.PERMISSION_DENIED,
    Reason.GRANT_EXCEEDS_CALLER: _Code.PERMISSION_DENIED,
    Reason.OVERLOADED: _Code.RESOURCE_EXHAUSTED,
    Reason.STORAGE_LOW: _Code.RESOURCE_EXHAUSTED,
    Reason.SHUTTING_DOWN: _Code.UNAVAILABLE,
    Reason.INTERNAL: _Code.INTERNAL,
    Reason.WAIT_TIMEOUT: _Code.DEADLINE_EXCEEDED,
    Reason.AUDIT_POSITION_INVALID: _Code.OUT_OF_RANGE,
    Reason.METHOD_NOT_FOUND: _Code.UNIMPLEMENTED,
}


def to_status(refusal: Refusal) -> status_pb2.Status:
    """Return the google.rpc.Status of a refusal; also the per-item error of batch replies."""
    message = refusal.message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    details: list[any_pb2.Any] = []

    def attach(
        detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
    ) -> None:
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.append(packed)

    attach(error_details_pb2.ErrorInfo(reason=refusal.reason.name, domain=DOMAIN, metadata=refusal.metadata))
    if refusal.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=refusal.field, description=message)
        attach(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.retry_ms:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(refusal.retry_ms)
        attach(error_details_pb2.RetryInfo(retry_delay=delay))
    code: int = CODES[refusal.reason].value[0]
    return status_pb2.Status(code=code, message=message, details=details)


def trailing_metadata(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """Return the metadata by which the status travels."""
    return ((DETAILS_KEY, status.SerializeToString()),)
