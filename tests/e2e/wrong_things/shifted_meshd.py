"""A meshd whose wall clock differs by SHIFT_S from that of everybody else on this host.

gRPC's own clock (`time.time`) stays: what it measures are deadlines, which travel as lengths of time.
"""

from __future__ import annotations

import os
import sys
import time

from meshd.__main__ import main

SHIFT_S = int(os.environ["SHIFT_S"])
_time_ns = time.time_ns

if __name__ == "__main__":
    time.time_ns = lambda: _time_ns() + SHIFT_S * 1_000_000_000
    sys.exit(main())
