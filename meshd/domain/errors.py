"""Refusals: every way the mesh says no, typed.

Rule: a refusal names what was wrong and the next step, and never repeats a payload or a secret. The wire turns it into
a google.rpc.Status; nothing below the wire knows gRPC codes.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why something was refused; numbers and names are those of ErrorReason in the contract."""

    INVALID_ARGUMENT = 1
    FIELD_REQUIRED = 2
    INVALID_PAGE_TOKEN = 3
    TOO_LARGE = 4
    NAMESPACE_NOT_FOUND = 5
    NAMESPACE_EXISTS = 6
    AGENT_NOT_FOUND = 7
    TASK_NOT_FOUND = 8
    TASK_EXISTS = 9
    SESSION_NOT_FOUND = 10
    STREAM_SUPERSEDED = 11
    PROTOCOL_VIOLATION = 12
    TOKEN_MISSING = 13
    TOKEN_INVALID = 14
    TOKEN_EXPIRED = 15
    TOKEN_REVOKED = 16
    JOIN_TOKEN_INVALID = 17
    PROOF_INVALID = 18
    ACCESS_DENIED = 19
    NAMESPACE_MISMATCH = 20
    IDENTITY_MISMATCH = 21
    GRANT_EXCEEDS_CALLER = 22
    OVERLOADED = 23
    STORAGE_LOW = 24
    SHUTTING_DOWN = 25
    INTERNAL = 26
    WAIT_TIMEOUT = 27
    AUDIT_POSITION_INVALID = 28
    METHOD_NOT_FOUND = 29


class Refusal(Exception):
    """The mesh says no. ``field`` names the offending field, ``retry_ms`` says when to try again (0: do not)."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        retry_ms: int = 0,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_ms = retry_ms
        self.metadata = metadata or {}
