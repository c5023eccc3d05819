"""Writes results: tables for people, JSON for programs, notes on standard error.

Rules: standard output carries the result and nothing else. Text that came from the mesh never reaches a
terminal with control characters in it. Piped tables are plain and complete; on a terminal long cells are
shortened, but ids, and on a narrow one each entry is written as lines of its own.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from meshctl.options import MAX_LIMIT
from meshctl.safe_text import escaped_json, printable

_MIN_COLUMN = 12
_GAP = 2
#: Columns that hold what the next command needs.
_WHOLE = frozenset(("TASK", "AGENT", "NAMESPACE"))
_COLOURS = {
    "healthy": "green",
    "running": "cyan",
    "succeeded": "green",
    "suspect": "yellow",
    "deaf": "yellow",
    "draining": "yellow",
    "lost": "red",
    "failed": "red",
    "expired": "red",
}


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message as protobuf JSON with the contract's field names, defaults included."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def write_json(value: Message | dict[str, Any]) -> None:
    """Writes one JSON document to standard output."""
    document = as_dict(value) if isinstance(value, Message) else value
    _write_document(json.dumps(document, indent=2, ensure_ascii=False))


def write_json_line(value: dict[str, Any]) -> None:
    """Writes one JSON document as one line to standard output."""
    _write_document(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _write_document(text: str) -> None:
    click.echo(escaped_json(text) if sys.stdout.isatty() else text)


def note(text: str) -> None:
    """Writes an explanation to standard error, out of the way of the result."""
    click.echo(printable(text, keep_newlines=True), err=True)


def note_more(shown: int) -> None:
    """Says that a list goes on behind --limit."""
    note(f"{shown:,} shown, there are more: --limit {min(10 * shown, MAX_LIMIT)}")


def write_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes rows under headers to standard output, in a form that fits where it goes."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    if not sys.stdout.isatty():
        _write_plain(headers, cells, widths)
    else:
        _write_for_terminal(headers, cells, widths)


def write_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Writes one entry as aligned "name: value" lines; fields without a value are left out."""
    present = [(name, printable(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in present), default=0) + 1
    for name, value in present:
        click.echo(f"{name + ':':<{width}} {value}")


def _write_plain(headers: Sequence[str], cells: list[list[str]], widths: list[int]) -> None:
    for row in (headers, *cells):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo((" " * _GAP).join(padded).rstrip())


def _write_for_terminal(headers: Sequence[str], cells: list[list[str]], widths: list[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    # Ids are typed again: they are shown whole, or not in columns.
    least = [
        width if header in _WHOLE else min(width, _MIN_COLUMN)
        for header, width in zip(headers, widths, strict=True)
    ]
    room = console.width - _GAP * (len(widths) - 1)
    if sum(least) > room:
        for number, row in enumerate(cells):
            if number:
                click.echo()
            write_fields(zip(headers, row, strict=True))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for header, width in zip(headers, _shortened(widths, least, room), strict=True):
        table.add_column(header, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.print(table)


def _shortened(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Takes from the columns that have most to give until all fit the room."""
    fitting = list(widths)
    for _ in range(sum(widths) - room):
        widest = max(range(len(fitting)), key=lambda number: fitting[number] - least[number])
        fitting[widest] -= 1
    return fitting


def moment(time: Timestamp) -> datetime.datetime:
    """Returns a timestamp as an aware date and time in UTC."""
    return time.ToDatetime(tzinfo=datetime.UTC)


def age_of(time: Timestamp, now: datetime.datetime | None = None) -> str:
    """Returns how long ago something was, as 12s, 5m, 3h or 2d; empty for a time that is not set."""
    if not time.seconds and not time.nanos:
        return ""
    return length_of(int(((now or datetime.datetime.now(datetime.UTC)) - moment(time)).total_seconds()))


def length_of(seconds: float) -> str:
    """Returns a length of time in its largest sensible unit; clocks that disagree never make it negative."""
    rest = max(seconds, 0.0)
    if rest < 10 and rest != int(rest):
        return f"{rest:.2g}s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if rest >= 2 * size:
            return f"{int(rest // size)}{unit}"
    return f"{int(rest)}s"


def seconds_of(length: Duration) -> float:
    """Returns a length of time in seconds."""
    return length.seconds + length.nanos / 1e9


def clock_of(time: Timestamp) -> str:
    """Returns a timestamp in local time to the second; empty for a time that is not set."""
    if not time.seconds and not time.nanos:
        return ""
    return moment(time).astimezone().isoformat(sep=" ", timespec="seconds")
