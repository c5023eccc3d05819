"""How the end of a handler becomes a report.

    returns a value          Done; None gives an empty result
    raises NonRetryable      Fail, trying again is pointless
    raises Fail              Fail as it says
    raises anything else     Fail, to be tried again
    ends after a cancel      Stopped, if it raised or returned None; a value it returned still counts

Rule: every end has a report, whatever the handler returned or raised: without one the attempt would hang and its slot be
gone for good. Failures carry type and message, never a payload.
"""

from __future__ import annotations

import inspect
from typing import TypeAlias

from agentmesh.errors import InvalidRequest, TooLarge, made_as_it_was
from agentmesh.payloads import PayloadLike, encode_payload
from agentmesh.v1 import session_pb2
from agentmesh.v1.session_pb2 import AgentFrame, Done, Stopped

_MAX_TYPE_BYTES = 128
_MAX_MESSAGE_BYTES = 4 * 1024

Result: TypeAlias = PayloadLike


class Fail(Exception):
    """Raised by a handler to fail its attempt with a class and a message of its own choice."""

    def __init__(self, type: str, message: str, *, retryable: bool = True) -> None:
        # Often an exception or a number is passed on, whatever the annotations say.
        self.type = str(type)
        self.message = str(message)
        super().__init__(self.message)
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        return made_as_it_was, (type(self), self.args, self.__dict__)


class NonRetryable(Fail):
    """Raised by a handler when trying again is pointless."""

    def __init__(self, message: str, *, type: str = "NonRetryable") -> None:
        super().__init__(type, message, retryable=False)


class TaskCancelled(Exception):
    """Raised by `TaskContext.raise_if_cancelled` once the mesh has asked to stop."""


def report_of(
    fence: bytes, result: Result, error: BaseException | None, *, was_cancelled: bool
) -> AgentFrame:
    """The frame for a handler that returned `result`, or raised `error`. Never raises."""
    try:
        if was_cancelled and (error is not None or result is None):
            return AgentFrame(stopped=Stopped(fence=fence))
        if error is not None:
            return _report_of_error(fence, error)
        return _report_of_result(fence, result)
    except BaseException as unreportable:  # noqa: BLE001 - what handlers return and raise can do anything
        what = type(unreportable).__name__
        return _fail_frame(fence, "ReportFailed", f"making the report raised {what}", retryable=True)


def cut_text(text: str, limit_bytes: int) -> str:
    """As much of a text as fits."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def _report_of_result(fence: bytes, result: Result) -> AgentFrame:
    returned: object = result  # whatever the annotations say
    if inspect.isawaitable(returned):
        # It looked like a sync handler: a function or a decorator around an async one, as a rule.
        what = f"the handler returned a {type(result).__name__} that nobody awaits: declare it async def"
        return _fail_frame(fence, "InvalidResult", what, retryable=False)
    try:
        return AgentFrame(done=Done(fence=fence, output=encode_payload(result)))
    except (TooLarge, InvalidRequest) as error:  # the same result would come again
        return _fail_frame(fence, "InvalidResult", error.message, retryable=False)


def _report_of_error(fence: bytes, error: BaseException) -> AgentFrame:
    if isinstance(error, Fail):
        return _fail_frame(fence, error.type, error.message, retryable=error.retryable)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ shall not hide the type
        message = ""
    return _fail_frame(fence, type(error).__name__, message, retryable=True)


def _fail_frame(fence: bytes, kind: str, message: str, *, retryable: bool) -> AgentFrame:
    failure = session_pb2.Fail(
        fence=fence,
        type=cut_text(kind, _MAX_TYPE_BYTES),
        message=cut_text(message, _MAX_MESSAGE_BYTES),
        retryable=retryable,
    )
    return AgentFrame(fail=failure)
