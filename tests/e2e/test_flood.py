"""Far more calls than meshd can work on, over many connections: what they meet, and what becomes of an agent meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agentmesh.v1 import agent_pb2, auth_service_pb2
from meshd.config import Settings
from tests.e2e.house import House

CONNECTIONS = 200
CALLS_PER_S = 20_000
MOST_KIB_PER_CALL = 24
"""Of memory for each call that a connection may have open: it takes 14, and what is under way some more."""
MOST_KIB_PER_TASK = 12
"""Of memory for each task that was taken: it takes 3 while caches fill, and calls that ended are freed late on a full machine."""


def memory_kib(pid: int, kind: str) -> int:
    """Return one of the counters of a process's memory: VmRSS is what it has now, VmHWM the most that it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))


async def test_a_flood_is_held_back_or_refused_by_name_in_bounded_memory_and_no_agent_is_lost(
    house: House,
) -> None:
    house.worker("worker-1")
    await house.until_healthy("worker-1")
    before = await house.mesh.get_agent("worker-1")
    token = await house.mesh.issue_token(
        auth_service_pb2.IssueTokenRequest(
            namespace="default",
            agent_id="flood",
            type=agent_pb2.AGENT_TYPE_ORCHESTRATOR,
            capabilities=["*"],
        )
    )

    before_kib = memory_kib(house.meshd.pid, "VmRSS")
    flood = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.flood", house.meshd.address, "--seconds", "3"),
        *("--connections", str(CONNECTIONS), "--rate", str(CALLS_PER_S)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await flood.communicate(token.value.encode())

    figures = json.loads(printed)
    met = figures["statuses"]
    assert met["OK"] > 0
    # Time may run out; nothing is cancelled, reset or refused without a word.
    assert set(met) <= {"OK", "RESOURCE_EXHAUSTED + RetryInfo", "NEVER SENT", "DEADLINE_EXCEEDED"}
    most_open = CONNECTIONS * Settings().max_calls_per_connection
    assert figures["max_open"] <= most_open
    grown_kib = memory_kib(house.meshd.pid, "VmHWM") - before_kib
    assert grown_kib <= most_open * MOST_KIB_PER_CALL + met["OK"] * MOST_KIB_PER_TASK

    after = await house.mesh.get_agent("worker-1")
    assert after.session_id == before.session_id
    assert after.health == agent_pb2.HEALTH_HEALTHY
