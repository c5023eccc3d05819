"""Tables and times: complete in a pipe, fitting on any terminal, harmless everywhere."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from meshctl import output
from meshctl.safe_text import printable

HEADERS = ("NAMESPACE", "AGENT", "TYPE", "HEALTH", "SINCE", "HELD/SLOTS", "CAPABILITIES", "CAUSE")
ROW = (
    "production",
    "worker-with-a-rather-long-name-0001",
    "worker",
    "healthy",
    "3m",
    "1/4",
    "a,b",
    "beat [bold]x",
)


def test_a_piped_table_is_complete_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_table(("A", "LONGER"), [("xyz", "1"), ("", "2")])
    assert capsys.readouterr().out == "A    LONGER\nxyz  1\n     2\n"


@pytest.mark.parametrize("columns", [10, 40, 80, 300])
def test_a_terminal_of_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.write_table(HEADERS, [ROW, ROW])
    text = capsys.readouterr().out
    assert "worker-with" in text
    if columns >= 80:
        assert max(map(len, text.splitlines())) <= columns
    if columns == 300:
        assert "worker-with-a-rather-long-name-0001" in text
        assert "beat [bold]x" in text


@pytest.mark.parametrize("columns", [80, 120, 130])
def test_what_the_next_command_needs_is_never_shortened(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    task_id = "t-193f4cbcefad462cbee5ac3e7b42fd40"
    headers = ("NAMESPACE", "TASK", "TYPE", "STATE", "PRIORITY", "AGENT", "ATTEMPT", "AGE", "REASON")
    row = ("default", task_id, "data-processing", "failed", "5", "worker-1", "4", "15s", "retries exhausted")
    output.write_table(headers, [row])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert task_id in text
    assert max(map(len, text.splitlines())) <= columns
    if columns == 120:
        assert "retries exhaus…" in text
    else:
        assert "retries exhausted" in text


def test_control_characters_are_replaced() -> None:
    assert printable("a\x1b[2Jb\x00\x9bc\u202e\n") == "a\ufffd[2Jb\ufffd\ufffdc\ufffd\ufffd"
    assert printable("zwei\nZeilen ü 漢", keep_newlines=True) == "zwei\nZeilen ü 漢"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.75, "0.75s"),
        (12.7, "12s"),
        (119, "119s"),
        (120, "2m"),
        (7_200, "2h"),
        (200_000, "2d"),
    ],
)
def test_lengths(seconds: float, text: str) -> None:
    assert output.length_of(seconds) == text


def test_times_that_are_not_set_are_empty() -> None:
    assert (output.age_of(Timestamp()), output.clock_of(Timestamp())) == ("", "")
    assert output.age_of(Timestamp(seconds=100), datetime.fromtimestamp(400, UTC)) == "5m"
