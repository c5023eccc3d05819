"""The everyday calls of each service by blocking stubs, as a client in another language makes them.

pytest-grpc replaces fixtures and reads private names of gRPC when it is loaded, so it has a run of its own:
here it is made, and what it found is shown when it is red.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BLOCKING = Path(__file__).with_name("blocking")
MODULES = sorted(path.name for path in BLOCKING.glob("blocking_*.py"))


@pytest.mark.timeout(120)
def test_every_service_answers_blocking_stubs() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "pytest_grpc.plugin", "-o", "python_files=blocking_*.py"]
    done = subprocess.run([*command, "-q", str(BLOCKING)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert [f"blocking_{name}.py" for name in ("auth", "namespaces", "registry", "scheduler")] == MODULES
