"""A broken meshd for the negative control: it answers before its commit, and commits take a while.

Started in meshd's place (`python -m tests.faults.early_ack_meshd`), it must make the oracle red; otherwise the fault
tests prove nothing.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from meshd.__main__ import main
from meshd.engine.commits import Commits

COMMIT_DELAY_S = 0.05

_begin = Commits._begin
_timed_commit = Commits._timed_commit


def _begin_and_release(self: Commits) -> None:
    batch = self._barrier.collecting
    _begin(self)
    if batch is not self._barrier.collecting:  # the batch was taken, so its commit is on its way
        self._release(batch)
        for released in (batch.sends, batch.replies, batch.closes, batch.callbacks):
            released.clear()


def _commit_late(self: Commits, rows: Any) -> float:
    time.sleep(COMMIT_DELAY_S)
    return _timed_commit(self, rows)


if __name__ == "__main__":
    Commits._begin = _begin_and_release  # type: ignore[method-assign]
    Commits._timed_commit = _commit_late  # type: ignore[method-assign]
    sys.exit(main())
