"""meshd as it is, with points at which it can be killed, for `tests.faults.disk`; and with PRAGMAs of one's choice.

The points around appending and syncing are the shim's. DISK_SYNCHRONOUS=NORMAL is the negative control of the power
cuts; DISK_CHECKPOINT_PAGES has the log folded into the database so often that a short run shows it many times.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from meshd.__main__ import main
from meshd.domain import machine
from meshd.domain.effects import Effects
from meshd.engine import mesh
from meshd.engine.commits import Commits
from meshd.store import opening
from tests.faults.disk import Point

CONTROL = Path(os.environ["DISK_CONTROL"])
_handle = machine.handle
_init = Commits.__init__


def die_at(point: Point) -> None:
    if (CONTROL / point).exists():
        os.kill(os.getpid(), signal.SIGKILL)


def _handle_or_die(ns: Any, batch: Any, now: Any, out: Any) -> None:
    if batch:
        die_at(Point.BEFORE_APPLY)
    _handle(ns, batch, now, out)
    if batch:
        die_at(Point.AFTER_APPLY)


def _init_with_points(self: Commits, *arguments: Any, **named: Any) -> None:
    _init(self, *arguments, **named)
    release = self._release

    def release_or_die(effects: Effects) -> None:
        wrote = bool(effects.writes)
        if wrote:
            die_at(Point.BEFORE_RELEASE)
        release(effects)
        if wrote:
            die_at(Point.AFTER_RELEASE)

    self._release = release_or_die


def _pragmas(pragmas: tuple[str, ...]) -> tuple[str, ...]:
    chosen = {
        "PRAGMA synchronous": os.environ.get("DISK_SYNCHRONOUS"),
        "PRAGMA wal_autocheckpoint": os.environ.get("DISK_CHECKPOINT_PAGES"),
    }
    names = [(pragma, pragma.partition("=")[0]) for pragma in pragmas]
    return tuple(f"{name}={chosen[name]}" if chosen.get(name) else pragma for pragma, name in names)


if __name__ == "__main__":
    mesh.handle = _handle_or_die  # type: ignore[attr-defined]
    Commits.__init__ = _init_with_points  # type: ignore[method-assign]
    opening.WRITER_PRAGMAS = _pragmas(opening.WRITER_PRAGMAS)  # type: ignore[assignment]
    sys.exit(main())
