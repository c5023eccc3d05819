"""No kill between two steps of an upgrade, a backup or a restore leaves a database that meshd cannot open, or loses a row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.meshd_process import clean_environment


@pytest.mark.timeout(120)
def test_an_upgrade_a_backup_and_a_restore_survive_a_kill_before_every_step(tmp_path: Path) -> None:
    # In a process of its own: it forks, which a process with threads should not.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill_points", str(tmp_path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [int(number) for number in re.findall(r"before each of (\d+) steps", done.stdout)]
    assert len(steps) == 3
    # The hooks see the statements of the migration and the files of the copy, or they prove nothing.
    assert min(steps) >= 10
