"""P1 and P3 under kill -9 of meshd: what was acknowledged is there, and every task has one outcome for ever.

A few cycles here; `python -m tests.faults.kill_cycles --cycles 50`, or KILL_CYCLES=50, for the full run.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.kill_cycles import IN_FLIGHT_GOAL, run_cycles
from tests.faults.oracle import Rule

CYCLES = int(os.environ.get("KILL_CYCLES", "5"))


@pytest.mark.timeout(120 + 10 * CYCLES)
async def test_nothing_acknowledged_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    report = await run_cycles(tmp_path, CYCLES, seed)
    print(f"seed {seed}: {report}")
    assert report.violations == []
    assert report.acked > 0
    assert report.in_flight >= IN_FLIGHT_GOAL * report.cycles


@pytest.mark.timeout(120)
async def test_oracle_is_red_when_meshd_answers_before_its_commit(tmp_path: Path) -> None:
    report = await run_cycles(tmp_path, 2, seed=1, broken="tests.faults.early_ack_meshd")
    print(report)
    assert Rule.LOST in {violation.rule for violation in report.violations}
