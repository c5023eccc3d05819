"""Submits tasks that no agent takes: ``python -m bench.backlog ADDRESS COUNT`` prints how many a second were acknowledged.

Two calls are under way at a time: meshd is always busy, and yet others do not wait behind a queue, so that a probe sees its pauses.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from typing import Any

import grpc.aio

from agentmesh.v1 import agent_pb2, auth_service_pb2_grpc, scheduler_service_pb2, scheduler_service_pb2_grpc
from bench.load import issue, spec_of

BATCH = 250
IN_FLIGHT = 2
TASK_TYPE = "parked"


async def main(address: str, count: int) -> None:
    """Submit all of them."""
    channel = grpc.aio.insecure_channel(address)
    auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
    scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
    metadata = await issue(auth, "submitter-0", agent_pb2.AGENT_TYPE_ORCHESTRATOR)
    prefix = secrets.token_hex(4)
    starts = iter(range(0, count, BATCH))

    async def submitter() -> None:
        for start in starts:
            specs = [spec_of(f"{prefix}-{number}") for number in range(start, min(start + BATCH, count))]
            for spec in specs:
                spec.task_type = TASK_TYPE
            await scheduler.SubmitTasks(
                scheduler_service_pb2.SubmitTasksRequest(specs=specs), metadata=metadata
            )

    begin = time.monotonic()
    await asyncio.gather(*(submitter() for _ in range(IN_FLIGHT)))
    print(count / (time.monotonic() - begin), flush=True)
    await channel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
