"""Lines of the log: one form for our own and for libraries, and no secrets in any."""

import io
import json
import logging as stdlib
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from meshd.ops import logging

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = stdlib.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    logging.configure("info", "json", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_and_level(lines: io.StringIO) -> None:
    structlog.get_logger().info("meshd ready", listen="127.0.0.1:7600", open_tasks=3)
    (line,) = read(lines)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "meshd ready", "level": "info", "listen": "127.0.0.1:7600", "open_tasks": 3}


def test_libraries_log_in_the_same_form(lines: io.StringIO) -> None:
    stdlib.getLogger("grpc").warning("odd peer %s", "sent Bearer cut.off~half-way/+=")
    (line,) = read(lines)
    assert line["level"] == "warning"
    assert line["event"] == "odd peer sent Bearer [redacted]"


def test_calls_that_their_peers_broke_leave_no_line(lines: io.StringIO) -> None:
    library = stdlib.getLogger("grpc._cython.cygrpc")
    library.error("ExecuteBatchError raised in core by servicer method [/grpc.health.v1.Health/Check]")
    library.error("Unexpected [KeyError] raised by servicer method [/grpc.health.v1.Health/Check]")
    (line,) = read(lines)
    assert line["event"].startswith("Unexpected")


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "join_token",
        "resume_token",
        "authorization",
        "Authorization",
        "payload",
        "private_key",
        "db_password",
    ],
)
def test_secrets_go_by_name(lines: io.StringIO, key: str) -> None:
    structlog.get_logger().info("x", **{key: "hunter2", "nested": {"deep": [{key: "hunter2"}]}})
    assert "hunter2" not in lines.getvalue()
    assert read(lines)[0][key] == "[redacted]"


def test_secrets_go_by_their_looks(lines: io.StringIO) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
    structlog.get_logger().info(
        f"got {JWT}", why=f"it was {pem} indeed", metadata=[("x", JWT)], body=b"secret"
    )
    text = lines.getvalue()
    assert "eyJ" not in text
    assert "MC4CAQ" not in text
    assert read(lines)[0]["body"] == "<6 bytes>"
    assert read(lines)[0]["why"] == "it was [redacted] indeed"


def test_secrets_in_exceptions_go_too(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"cannot verify {JWT}")
    except ValueError:
        structlog.get_logger().exception("a call failed")
    assert "eyJ" not in lines.getvalue()
    assert "ValueError: cannot verify [redacted]" in read(lines)[0]["exception"]


def test_what_is_below_the_level_is_not_written(lines: io.StringIO) -> None:
    structlog.get_logger().debug("detail")
    stdlib.getLogger("asyncio").info("library detail")
    assert lines.getvalue() == ""


def test_text_is_for_people(lines: io.StringIO) -> None:
    logging.configure("info", "text", lines)
    structlog.get_logger().warning("disk lags", seconds=0.5)
    assert "disk lags" in lines.getvalue()
    assert "seconds=0.5" in lines.getvalue()
    assert "\x1b" not in lines.getvalue()


@pytest.mark.parametrize(
    "text", ["x\x1b[2Jy", "x\x1b]0;a title\x07", "x\x9b2J", "x\ny", "x\u2028y", "x\u202ey"]
)
def test_no_text_steers_a_terminal_or_makes_a_line(lines: io.StringIO, text: str) -> None:
    logging.configure("info", "text", lines)
    structlog.get_logger().info(f"said {text}", detail=text)
    written = lines.getvalue()
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert written.count("x") >= 2


def test_the_lines_of_an_exception_stay_lines(lines: io.StringIO) -> None:
    logging.configure("info", "text", lines)
    try:
        raise ValueError("said \x1b[2J")
    except ValueError:
        structlog.get_logger().exception("a call failed")
    assert lines.getvalue().splitlines()[-1] == "ValueError: said \\x1b[2J"
    assert len(lines.getvalue().splitlines()) > 2
