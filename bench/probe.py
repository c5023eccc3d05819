"""How long meshd stands still, seen from outside: a health check every few milliseconds, as a process of its own.

``python -m bench.probe ADDRESS`` probes until its stdin ends and prints its figures in one line of JSON. A long answer can also be the
machine's doing: the probe's own lateness is printed beside.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

INTERVAL_S = 0.005
MAX_WAIT_S = 30.0


async def main(address: str) -> None:
    """Probe until told to stop."""
    channel = grpc.aio.insecure_channel(address)
    health: Any = health_pb2_grpc.HealthStub(channel)
    stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    answered_s: list[float] = []
    own_lateness_s = 0.0
    broken = 0
    request = health_pb2.HealthCheckRequest()
    await health.Check(request, wait_for_ready=True)
    print("ready", flush=True)
    while not stopped.done():
        begin = time.monotonic()
        try:
            await health.Check(request, timeout=MAX_WAIT_S)
        except grpc.aio.AioRpcError:
            broken += 1  # the machine was so busy that a ping of the connection went unanswered
        answered = time.monotonic()
        answered_s.append(answered - begin)
        await asyncio.sleep(INTERVAL_S)
        own_lateness_s = max(own_lateness_s, time.monotonic() - answered - INTERVAL_S)
    answered_s.sort()
    figures = {
        "median_ms": answered_s[len(answered_s) // 2] * 1000,
        "p999_ms": answered_s[len(answered_s) * 999 // 1000] * 1000,
        "longest_ms": answered_s[-1] * 1000,
        "own_lateness_ms": own_lateness_s * 1000,
    }
    print(json.dumps({"broken": broken, **{n: round(value, 1) for n, value in figures.items()}}), flush=True)
    await channel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
