"""P1 on storage that honours fsync: whatever a power cut leaves of unsynced writes, nothing acknowledged is lost.

A few cuts here; `python -m tests.faults.power_cuts --cuts 3000` for the full run.
"""

import os
from pathlib import Path

import pytest

from tests.faults.power_cuts import run

CUTS = int(os.environ.get("POWER_CUTS", "150"))
RECORD_S = 1.5


@pytest.mark.timeout(120 + CUTS)
async def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    report = await run(tmp_path, CUTS, "FULL", RECORD_S, seed=1)
    print(report)
    assert (report.lossy, report.first) == (0, [])
    assert report.acked
    assert report.folded > 2


async def test_the_replay_is_red_when_commits_are_not_synced(tmp_path: Path) -> None:
    report = await run(tmp_path, 60, "NORMAL", RECORD_S, seed=1)
    print(report)
    assert report.lossy
