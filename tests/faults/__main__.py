"""All faults on real processes, one program after the other: `make faults`, or `python -m tests.faults`.

How many of each is said by the environment, `make faults KILLS=500 CUTS=3000`; 0 leaves one out. Ends with 1 when one of
them found something.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

#: Variable, number by default, and the program that takes it.
RUNS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("KILLS", 100, ("tests.faults.kill_cycles", "--cycles")),
    ("CUTS", 3_000, ("tests.faults.power_cuts", "--cuts")),
    ("AGENT_KILLS", 50, ("tests.faults.agent_faults", "kill", "--count")),
    ("AGENT_FREEZES", 30, ("tests.faults.agent_faults", "freeze", "--count")),
    ("MESHD_FREEZES", 10, ("tests.faults.agent_faults", "freeze-meshd", "--count")),
    ("PARTITIONS", 20, ("tests.faults.agent_faults", "partition", "--count")),
    ("ONE_WAY_UP", 10, ("tests.faults.agent_faults", "up", "--count")),
    ("ONE_WAY_DOWN", 10, ("tests.faults.agent_faults", "down", "--count")),
    ("HALF_OPEN", 10, ("tests.faults.agent_faults", "both", "--count")),
    ("FULL_DISK", 10, ("tests.faults.full_disk", "--points")),
    ("STORM_AGENTS", 1_000, ("tests.faults.reconnect_storm", "--agents")),
)


def main() -> int:
    failed = []
    for variable, by_default, arguments in RUNS:
        count = int(os.environ.get(variable) or by_default)
        if not count:
            continue
        began_s = time.monotonic()
        print(f"== {variable}={count}", flush=True)
        done = subprocess.run([sys.executable, "-m", *arguments, str(count)], check=False)
        print(f"   {time.monotonic() - began_s:.0f} s", flush=True)
        if done.returncode:
            failed.append(variable)
    print(f"something was found by: {', '.join(failed)}" if failed else "nothing was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
