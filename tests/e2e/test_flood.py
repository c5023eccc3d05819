"""Far more calls than meshd can work on, over many connections: what they meet, and what becomes of an agent meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys

from agentmesh.v1 import agent_pb2, auth_service_pb2
from meshd.config import Settings
from tests.e2e.house import House

CONNECTIONS = 200
CALLS_PER_S = 20_000


async def test_a_flood_is_held_back_or_refused_by_name_and_no_agent_is_lost(house: House) -> None:
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
    assert figures["max_open"] <= CONNECTIONS * Settings().max_calls_per_connection

    after = await house.mesh.get_agent("worker-1")
    assert after.session_id == before.session_id
    assert after.health == agent_pb2.HEALTH_HEALTHY
