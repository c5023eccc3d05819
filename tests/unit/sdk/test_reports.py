"""Every end of a handler has a report, whatever it returned or raised."""

from __future__ import annotations

import asyncio

import pytest

from agentmesh import Fail, NonRetryable
from agentmesh.reports import report_of


class Broken(Exception):
    """Cannot tell its text."""

    def __str__(self) -> str:
        raise KeyError("secret")


@pytest.mark.parametrize(
    ("error", "kind", "message", "retryable"),
    [
        (NonRetryable(ValueError("bad")), "NonRetryable", "bad", False),  # type: ignore[arg-type]
        (Fail(404, None), "404", "None", True),  # type: ignore[arg-type]
        (OSError("file-\udcff"), "OSError", "file-?", True),
        (Broken(), "Broken", "", True),
        (
            Fail("Custom", "text", retryable="yes"),  # type: ignore[arg-type]
            "ReportFailed",
            "making the report raised TypeError",
            True,
        ),
    ],
)
def test_whatever_is_raised_is_reported(
    error: BaseException, kind: str, message: str, retryable: bool
) -> None:
    fail = report_of(b"a", None, error, was_cancelled=False).fail
    assert (fail.fence, fail.type, fail.message, fail.retryable) == (b"a", kind, message, retryable)
    assert report_of(b"a", None, error, was_cancelled=True).HasField("stopped")


def test_what_cannot_travel_fails_for_good() -> None:
    fail = report_of(b"a", "file-\udcff", None, was_cancelled=False).fail
    assert (fail.type, fail.retryable) == ("InvalidResult", False)


async def test_an_async_handler_that_looked_like_a_sync_one_is_told_what_to_do() -> None:
    future = asyncio.get_running_loop().create_future()
    fail = report_of(b"a", future, None, was_cancelled=False).fail  # type: ignore[arg-type]
    assert (fail.type, fail.retryable) == ("InvalidResult", False)
    assert "declare it async def" in fail.message


def test_a_value_counts_after_a_cancel_and_none_does_not() -> None:
    assert report_of(b"a", "value", None, was_cancelled=True).HasField("done")
    assert report_of(b"a", None, None, was_cancelled=True).HasField("stopped")
