"""What people type: durations, priorities, labels, lists and payloads."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pytest

from agentmesh.task_specs import PRIORITIES
from meshctl import values

MAX_BYTES = 1_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("300000", 300_000),
        ("1", 1),
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1.5h", 5_400_000),
        ("1h30m", 5_400_000),
        ("2D", 172_800_000),
        (" 10s ", 10_000),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert values.parse_duration(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "5x", "m", "1h 30m", "1e3", "5m!", "9" * 30, "0s", "0.1ms", "∞", "٣"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|is out of range"):
        values.parse_duration(text)


def test_priorities_are_words_or_digits() -> None:
    assert [values.parse_priority(word) for word in ("low", "Normal", "high", "critical", "0", "9")] == [
        2,
        5,
        7,
        9,
        0,
        9,
    ]
    assert dict(PRIORITIES) == values.PRIORITY_WORDS
    for text in ("", "10", "-1", "urgent", "5.0"):
        with pytest.raises(ValueError, match="is not a priority"):
            values.parse_priority(text)


def test_lists_and_labels() -> None:
    assert values.split_list(["a, b,,a", "c"]) == ["a", "b", "c"]
    assert values.parse_labels(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for text in ("a", "=1", ""):
        with pytest.raises(ValueError, match="is not a label"):
            values.parse_labels([text])


def payload(text: str, stdin: bytes = b"") -> values.PayloadContent:
    """Reads a payload with `stdin` as standard input."""
    return values.read_payload(text, io.BytesIO(stdin), MAX_BYTES)


@pytest.mark.parametrize(
    ("text", "media_type"),
    [
        ('{"data": "example"}', "application/json"),
        ("17", "application/json"),
        ("NaN", "text/plain"),
        ("{data", "text/plain"),
        ("", "text/plain"),
        ("[" * 900, "text/plain"),
    ],
)
def test_text_is_json_when_it_parses(text: str, media_type: str) -> None:
    assert payload(text) == (text.encode(), media_type)
    assert payload("-", text.encode()) == (text.encode(), media_type)


def test_bytes_from_standard_input() -> None:
    assert payload("-", b"\xff\xfe") == (b"\xff\xfe", "application/octet-stream")


def test_files_are_typed_by_name(tmp_path: Path) -> None:
    for name, media_type in (
        ("a.json", "application/json"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
    ):
        (tmp_path / name).write_bytes(b"1")
        assert payload(f"@{tmp_path / name}") == (b"1", media_type)


def test_too_large_and_unreadable_payloads(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * (MAX_BYTES + 1))
    for text in ("y" * (MAX_BYTES + 1), f"@{file}", "-"):
        with pytest.raises(ValueError, match="is larger than 1,000 bytes"):
            payload(text, b"z" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="cannot read"):
        payload(f"@{tmp_path}")


def test_a_file_called_json_must_be_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": example}')
    with pytest.raises(ValueError, match=r"a\.json is not JSON \(line 1, column 10\)"):
        payload(f"@{tmp_path / 'a.json'}")
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b\.json is not JSON, as its name says"):
        payload(f"@{tmp_path / 'b.json'}")


@pytest.mark.parametrize(
    ("text", "looks"),
    [("{data: 1}", True), (" [1,", True), ('{"data": 1}', False), ("plain", False), ("", False)],
)
def test_text_that_lost_its_quotes_is_told_from_other_text(text: str, looks: bool) -> None:
    assert values.looks_like_json(payload(text)) is looks
