"""What can go wrong with a call to the mesh, as exceptions.

    MeshError
    ├── ConfigurationError     this process was set up in a way that cannot work; no call was made
    ├── InvalidRequest         a field is missing or outside its range (`fields` names it)
    ├── NotFound               no such namespace, agent or task, as far as the caller may know
    ├── AlreadyExists          the id is taken by something with other content
    ├── NotAuthenticated       token missing, malformed, expired or revoked; join token or proof not accepted
    ├── AccessDenied           known, but not allowed to do this
    ├── Refused                sound, but not now or not like this (`retry_after_s` when waiting helps)
    │   ├── Overloaded         the daemon has as much open work as it accepts
    │   ├── StorageLow         the daemon's disk is nearly full
    │   └── TooLarge           a payload or message exceeds its limit; waiting does not help
    ├── SessionEnded           the agent's session is unknown or over
    │   └── Superseded         another process runs as the same agent
    ├── Unreachable            nothing answers at the address, or not in time
    ├── WaitTimeout            the wait ended before the task did
    ├── TaskNotSucceeded       the task ended, and not in SUCCEEDED (raised by `result()` only)
    └── InternalError          a bug in the daemon, or an answer nobody understands

Clients decide by class or by `reason` (a name of `agentmesh.v1.ErrorReason` without its prefix), never by text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from google.rpc import status_pb2

    from agentmesh.v1 import task_pb2

E = TypeVar("E", bound=Exception)

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that was not accepted."""

    field: str
    description: str


class MeshError(Exception):
    """Base of all errors of this package."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        fields: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        #: Name of an `ErrorReason` without prefix, such as "TASK_NOT_FOUND"; empty when the daemon gave none.
        self.reason = reason
        #: Name of the gRPC status code, such as "NOT_FOUND"; empty when no call was made.
        self.code = code
        #: The fields that were not accepted.
        self.fields = fields
        #: Further facts of the error, such as both numbers of a size limit.
        self.metadata: Mapping[str, str] = metadata or {}
        #: Seconds after which trying again makes sense; None when waiting does not help.
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return made_as_it_was, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        details = "; ".join(
            item.field if item.description == self.message else f"{item.field}: {item.description}"
            for item in self.fields
            if item.field not in self.message
        )
        return f"{self.message} ({details})" if details else self.message


def made_as_it_was(kind: type[E], args: tuple[object, ...], attributes: dict[str, object]) -> E:
    """Unpickles an exception whose constructor takes more than the text that it keeps in `args`.

    Without this the way back from another process fails, and takes a whole ProcessPoolExecutor with it.
    """
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(MeshError):
    """This process was set up in a way that cannot work; no call was made."""


class InvalidRequest(MeshError):
    """A field is missing or outside its range; `fields` names it."""


class NotFound(MeshError):
    """No such namespace, agent or task, as far as the caller may know."""


class AlreadyExists(MeshError):
    """The id is taken by something with other content."""


class NotAuthenticated(MeshError):
    """Token missing, malformed, expired or revoked; join token or proof not accepted."""


class AccessDenied(MeshError):
    """The caller is known, but not allowed to do this."""


class Refused(MeshError):
    """The request is sound, but not accepted now or not in this form."""


class Overloaded(Refused):
    """The daemon has as much open work as it accepts; try again after `retry_after_s`."""


class StorageLow(Refused):
    """The daemon's disk is nearly full: new work is refused, results and cancels go on."""


class TooLarge(Refused):
    """A payload or message exceeds its limit; both numbers are in the message."""


class SessionEnded(MeshError):
    """The agent's session is unknown or over; register again."""


class Superseded(SessionEnded):
    """Another process runs as the same agent and took its place."""


class Unreachable(MeshError):
    """Nothing answers at the address, or not in time."""


class WaitTimeout(MeshError):
    """The wait ended before what was waited for; `task` is the last known state of a task, if any answer came."""

    task: task_pb2.Task | None = None


class TaskNotSucceeded(MeshError):
    """The task ended, and not in SUCCEEDED; `task` says how."""

    def __init__(self, message: str, task: task_pb2.Task) -> None:
        super().__init__(message)
        self.task = task


class InternalError(MeshError):
    """A bug in the daemon, or an answer this client does not understand."""


_BY_REASON: dict[str, type[MeshError]] = {
    "TOO_LARGE": TooLarge,
    "OVERLOADED": Overloaded,
    "STORAGE_LOW": StorageLow,
    "SHUTTING_DOWN": Unreachable,
    "SESSION_NOT_FOUND": SessionEnded,
    "STREAM_SUPERSEDED": Superseded,
    "WAIT_TIMEOUT": WaitTimeout,
    "INTERNAL": InternalError,
    "INVALID_ARGUMENT": InvalidRequest,
    "FIELD_REQUIRED": InvalidRequest,
    "INVALID_PAGE_TOKEN": InvalidRequest,
    "PROTOCOL_VIOLATION": InvalidRequest,
    "AUDIT_POSITION_INVALID": InvalidRequest,
    "METHOD_NOT_FOUND": InvalidRequest,
    "NAMESPACE_NOT_FOUND": NotFound,
    "AGENT_NOT_FOUND": NotFound,
    "TASK_NOT_FOUND": NotFound,
    "NAMESPACE_EXISTS": AlreadyExists,
    "TASK_EXISTS": AlreadyExists,
    "TOKEN_MISSING": NotAuthenticated,
    "TOKEN_INVALID": NotAuthenticated,
    "TOKEN_EXPIRED": NotAuthenticated,
    "TOKEN_REVOKED": NotAuthenticated,
    "JOIN_TOKEN_INVALID": NotAuthenticated,
    "PROOF_INVALID": NotAuthenticated,
    "ACCESS_DENIED": AccessDenied,
    "NAMESPACE_MISMATCH": AccessDenied,
    "IDENTITY_MISMATCH": AccessDenied,
    "GRANT_EXCEEDS_CALLER": AccessDenied,
}

_BY_CODE: dict[str, type[MeshError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "UNAUTHENTICATED": NotAuthenticated,
    "PERMISSION_DENIED": AccessDenied,
    "RESOURCE_EXHAUSTED": Refused,
    # The daemon sheds calls by CANCELLED when it is flooded; a call cancelled here raises CancelledError instead.
    "CANCELLED": Unreachable,
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": Unreachable,
}


def from_reason(reason: str, message: str, *, metadata: Mapping[str, str] | None = None) -> MeshError:
    """The error for one item of a batch: `reason` without prefix, and the daemon's message."""
    return _BY_REASON.get(reason, InternalError)(message, reason=reason, metadata=metadata)


def from_rpc_error(exc: BaseException) -> MeshError:
    """The typed error for a failed gRPC call, blocking or asyncio.

    Reads the `google.rpc.Status` that the daemon attaches; without one (a proxy, a dead connection) the status code
    decides.
    """
    call: Any = exc
    code = getattr(call, "code", None)
    code_name: str = code().name if callable(code) and code() is not None else "UNKNOWN"
    details = getattr(call, "details", None)
    message: str = (details() if callable(details) else None) or str(exc) or code_name
    status = _attached_status(call)
    if status is None:
        return _BY_CODE.get(code_name, InternalError)(message, code=code_name)
    return _from_status(status, code_name, status.message or message)


def _attached_status(call: Any) -> status_pb2.Status | None:
    trailing = getattr(call, "trailing_metadata", None)
    for key, value in (trailing() if callable(trailing) else None) or ():
        if key == _DETAILS_KEY:
            from google.protobuf.message import DecodeError
            from google.rpc import status_pb2

            try:
                return status_pb2.Status.FromString(
                    value if isinstance(value, bytes) else value.encode("latin-1")
                )
            except DecodeError:
                return None
    return None


def _from_status(status: status_pb2.Status, code_name: str, message: str) -> MeshError:
    from google.rpc import error_details_pb2

    reason, metadata, retry_after_s = "", {}, None
    fields: list[FieldViolation] = []
    info, retry, bad = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(bad):
            fields += (FieldViolation(item.field, item.description) for item in bad.field_violations)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code_name, InternalError)
    return kind(
        message,
        reason=reason,
        code=code_name,
        fields=tuple(fields),
        metadata=metadata,
        retry_after_s=retry_after_s,
    )
