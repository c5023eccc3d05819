"""Failed calls become the right error, with everything the daemon attached."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from agentmesh import Fail, NonRetryable, errors
from agentmesh.v1.error_reason_pb2 import ErrorReason
from agentmesh.v1.task_pb2 import Task


class FailedCall(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, *details: Any, raw: bytes | None = None) -> None:
        super().__init__()
        self._code = code
        status = status_pb2.Status(code=code.value[0], message="told by the daemon")
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        self._trailing = raw if raw is not None else status.SerializeToString() if details else None

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "bare text"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:  # type: ignore[override]
        return () if self._trailing is None else (("grpc-status-details-bin", self._trailing),)


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="agentmesh", metadata=metadata)


def test_the_reason_decides_and_everything_attached_is_carried() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="spec.task_type", description="is empty")
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    error = errors.from_rpc_error(
        FailedCall(grpc.StatusCode.RESOURCE_EXHAUSTED, info("OVERLOADED", limit="5"), retry, bad)
    )
    assert type(error) is errors.Overloaded
    assert isinstance(error, errors.Refused)
    assert (error.reason, error.code, error.message) == (
        "OVERLOADED",
        "RESOURCE_EXHAUSTED",
        "told by the daemon",
    )
    assert (error.retry_after_s, error.metadata) == (1.5, {"limit": "5"})
    assert error.fields == (errors.FieldViolation("spec.task_type", "is empty"),)
    assert str(error) == "told by the daemon (spec.task_type: is empty)"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unreachable),
        (grpc.StatusCode.CANCELLED, errors.Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.Unreachable),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)
def test_without_a_status_the_code_decides(code: grpc.StatusCode, kind: type[errors.MeshError]) -> None:
    error = errors.from_rpc_error(FailedCall(code))
    assert type(error) is kind
    assert error.message == "bare text"


def test_garbage_in_the_trailer_is_ignored() -> None:
    error = errors.from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, raw=b"\xff\xff\xff"))
    assert type(error) is errors.NotFound


def test_an_unknown_reason_falls_back_to_the_code() -> None:
    error = errors.from_rpc_error(FailedCall(grpc.StatusCode.PERMISSION_DENIED, info("OF_A_LATER_VERSION")))
    assert type(error) is errors.AccessDenied
    assert error.reason == "OF_A_LATER_VERSION"


@pytest.mark.parametrize("name", ErrorReason.keys()[1:])
def test_every_reason_of_the_contract_has_a_class(name: str) -> None:
    reason = name.removeprefix("ERROR_REASON_")
    error = errors.from_reason(reason, "text")
    assert error.reason == reason
    assert (type(error) is errors.InternalError) == (reason == "INTERNAL")


def test_every_class_is_in_the_tree_at_the_top_and_exported() -> None:
    import agentmesh

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.MeshError):
            assert name in (errors.__doc__ or "")
            assert getattr(agentmesh, name) is kind


@pytest.mark.parametrize(
    "error",
    [
        Fail("BadInput", "column 3 is empty", retryable=False),
        NonRetryable("column 3 is empty", type="BadInput"),
        errors.TaskNotSucceeded("failed", Task(namespace="default")),
        errors.Overloaded("full", reason="OVERLOADED", retry_after_s=1.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_another_process_as_they_were(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)
    assert back.__dict__ == error.__dict__
