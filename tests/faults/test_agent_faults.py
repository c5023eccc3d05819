"""P4, P5 and P12 with agents that die or lose their network under load, a meshd that freezes, and a crowd cut off at once.

A few of each here; `make faults` for full runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import agent_faults, reconnect_storm

SLACK = 2.0
"""The machine of the tests is shared: a bound may be exceeded by this factor before a test is red."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["kill", "up"])
async def test_what_a_lost_agent_held_runs_elsewhere(tmp_path: Path, kind: str) -> None:
    report = await agent_faults.run(tmp_path, kind, 3, seed=1)
    print(report)
    assert (report.violations, report.forgotten) == ([], 0)
    assert report.reassigned_s
    assert report.percentile_s(99) < SLACK * agent_faults.BOUNDS_S[kind]


@pytest.mark.timeout(120)
async def test_a_frozen_meshd_takes_nothing_from_anybody(tmp_path: Path) -> None:
    report = await agent_faults.run(tmp_path, agent_faults.FREEZE_MESHD, 1, seed=1)
    print(report)
    assert (report.violations, report.losses) == ([], 0)
    assert report.acked


@pytest.mark.timeout(120)
async def test_a_crowd_that_is_cut_off_at_once_keeps_its_tasks(tmp_path: Path) -> None:
    report = await reconnect_storm.run(tmp_path, 50)
    print(report)
    assert (report.reassigned, report.succeeded) == (0, 50)
    assert report.connections_cut >= 50
