"""P9 on a disk that runs full under load: new work is refused, the rest goes on, and nothing acknowledged is lost.

Two points here; `python -m tests.faults.full_disk` for all ten.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.full_disk import run


@pytest.mark.timeout(120)
async def test_a_disk_that_runs_full_under_load(tmp_path: Path) -> None:
    report = await run(tmp_path, (20_000, 0))
    print(report)
    assert report.violations == []
    assert report.sound, report
    assert report.acked
