"""What is kept of a run: one small JSON a commit in docs/benchmarks/, medians and extremes only.

Rule: a record names versions, cores and the kind of processor, never a host, a user or a path. The run of a changed
checkout belongs to no commit and stays under build/bench/.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench.processes import BUILD, CORES
from meshd.domain import machine as domain_machine

KEPT = Path("docs/benchmarks")
Round = dict[str, Any]
Read = Callable[[Round], float]


@dataclass(frozen=True)
class Goal:
    """What a figure shall be: at least, or at most, so much."""

    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "≥" else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """One line of the table: what it is called, its unit, and how it is read off one round."""

    name: str
    unit: str
    of: Read
    goal: Goal | None = None


@dataclass(frozen=True)
class Row:
    """A figure over all rounds."""

    name: str
    unit: str
    median: float
    min: float
    max: float
    goal: str = ""
    met: bool | None = None


def summarise(figures: Iterable[Figure], rounds: Sequence[Round]) -> list[Row]:
    """Return a row for each figure: a ratio is formed within each round, then its median taken."""
    rows = []
    for figure in figures:
        values = [figure.of(each) for each in rounds]
        low, middle, high = (float(f"{each:.4g}") for each in (min(values), median(values), max(values)))
        goal, met = "", None
        if figure.goal is not None:
            goal, met = f"{figure.goal.sign} {figure.goal.bound:,g}", figure.goal.met(middle)
        rows.append(Row(figure.name, figure.unit, middle, low, high, goal, met))
    return rows


def git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), check=True, capture_output=True, text=True).stdout.strip()


def machine() -> dict[str, str | int]:
    """Say what the figures depend on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cores": len(CORES),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        # Only where it is so, since earlier records do not say.
        **({} if domain_machine.__file__.endswith(".py") else {"compiled": True}),
    }


def keep(kind: str, rows: Sequence[Row], rounds: int, **more: Any) -> Path:
    """Write the record of a run; returns where."""
    commit = git("rev-parse", "--short=10", "HEAD")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    folder = BUILD if changed else KEPT
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{commit}.json"
    record = {
        "kind": kind,
        "commit": commit + ("+changed" if changed else ""),
        "committed": git("show", "-s", "--format=%cI", commit),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "busy": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        **more,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """Return a record."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def find(words: str) -> dict[str, Any]:
    """Return the record of a file's name or of the beginning of a commit; ends the program if there is none."""
    named = Path(words)
    paths = [named] if named.is_file() else sorted(KEPT.glob(f"run-{words}*.json"))
    if len(paths) != 1:
        raise SystemExit(f"{len(paths)} records are called {words!r}; name one file of {KEPT}/ or {BUILD}/")
    return read(paths[0])


def in_order(kind: str) -> list[dict[str, Any]]:
    """Return all kept records of a kind, oldest commit first."""
    records = [read(path) for path in KEPT.glob(f"{kind}-*.json")]
    return sorted(records, key=lambda record: datetime.fromisoformat(record["committed"]))


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table that reads well on a terminal too."""
    lines = [
        f"| {'':36} | {'median':>8} | {'min – max':>17} | {'unit':9} | {'goal':9} | {'met':3} |",
        f"|{'-' * 38}|{'-' * 9}:|{'-' * 18}:|{'-' * 11}|{'-' * 11}|{'-' * 5}|",
    ]
    for row in rows:
        met = {True: "yes", False: "no", None: ""}[row.met]
        extremes = f"{in_digits(row.min)} – {in_digits(row.max)}"
        lines.append(
            f"| {row.name:36} | {in_digits(row.median):>8} | {extremes:>17} | {row.unit:9} | {row.goal:9} | {met:3} |"
        )
    return "\n".join(lines)


def in_digits(value: float) -> str:
    """Return a number in about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def progress(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
