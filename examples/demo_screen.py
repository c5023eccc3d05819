"""What the demo shows: a progress bar on a terminal, a line every tenth elsewhere, and tables at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol


class Progress(Protocol):
    """Shows how far the work is, and what happens meanwhile."""

    def advance(self, done: int) -> None: ...

    def say(self, text: str) -> None: ...


class _Lines:
    """Progress for logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._tenths = 0

    def advance(self, done: int) -> None:
        if done * 10 // self._total > self._tenths:
            self._tenths = done * 10 // self._total
            self.say(f"{done:>6} of {self._total} tasks done")

    def say(self, text: str) -> None:
        print(text, flush=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Yields a bar where there is a terminal and rich, lines otherwise."""
    if not sys.stdout.isatty():
        yield _Lines(total)
        return
    try:
        from rich import progress as bars  # noqa: PLC0415 - comes with the meshctl extra, which may be missing
    except ModuleNotFoundError:
        yield _Lines(total)
        return

    columns = (bars.BarColumn(None), bars.MofNCompleteColumn(), bars.TimeElapsedColumn())
    with bars.Progress(*columns) as bar:
        task = bar.add_task("", total=total)

        class Bar:
            def advance(self, done: int) -> None:
                bar.update(task, completed=done)

            def say(self, text: str) -> None:
                bar.console.print(text, markup=False, highlight=False)

        yield Bar()


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; numbers stand on the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right = [all(isinstance(row[column], int) for row in rows) for column in range(len(headers))]
    widths = [max(len(row[column]) for row in (headers, *cells)) for column in range(len(headers))]
    print(f"\n{title}")
    for row in (headers, ["-" * width for width in widths], *cells):
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        print(f"  {'  '.join(padded).rstrip()}")
