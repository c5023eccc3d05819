"""Measures watching: many watchers while agents change, and what a watcher costs that does not read.

`python -m bench.watchers` runs both against a fresh meshd. Latency counts from the call that changes an agent until a
watcher has the change: the commit, the fan-out and the way to another process are in it. A change carries its time of
sending in a label.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio

from agentmesh.v1 import agent_pb2, registry_service_pb2, registry_service_pb2_grpc
from bench.processes import LOAD_CORE, cpu_s, end, first_line, meshd, start

WATCHERS_PER_CHANNEL = 16
WORKERS = 2
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
AGENTS = 200
STALLED_CHANGES = 20_000


def registry(channel: grpc.aio.Channel) -> Any:
    return registry_service_pb2_grpc.RegistryServiceStub(channel)


def declaration(number: int, sent_ns: int) -> registry_service_pb2.DeclareAgentRequest:
    spec = agent_pb2.AgentSpec(agent_id=f"agent-{number}", type=agent_pb2.AGENT_TYPE_WORKER)
    spec.labels["sent"] = str(sent_ns)
    return registry_service_pb2.DeclareAgentRequest(namespace="default", spec=spec)


async def watch(address: str, watchers: int) -> None:
    """Watch from a process of its own: says "ready", then "done" with what it saw when told to stop."""
    latencies_ms: list[float] = []
    messages = 0
    request = registry_service_pb2.WatchAgentsRequest(namespace="default")

    async def follow(stub: Any, ready: asyncio.Event) -> None:
        nonlocal messages
        async for message in stub.WatchAgents(request):
            now_ns = time.monotonic_ns()
            messages += 1
            news = [change.agent for change in message.changes if change.revision]
            latencies_ms.extend((now_ns - int(agent.spec.labels["sent"])) / 1e6 for agent in news)
            if message.HasField("position"):
                ready.set()

    channels = [
        grpc.aio.insecure_channel(address, options=OWN_CONNECTION)
        for _ in range(-(-watchers // WATCHERS_PER_CHANNEL))
    ]
    events = [asyncio.Event() for _ in range(watchers)]
    tasks = [
        asyncio.create_task(follow(registry(channels[number // WATCHERS_PER_CHANNEL]), event))
        for number, event in enumerate(events)
    ]
    for event in events:
        await event.wait()
    print("ready", flush=True)
    await asyncio.to_thread(input)
    for task in tasks:
        task.cancel()
    latencies_ms.sort()
    print(json.dumps({"messages": messages, "latencies_ms": latencies_ms}), flush=True)


async def change(address: str, per_s: float, seconds: float) -> int:
    """Change agents, one after another in turn, at an even pace."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = registry(channel)
        begin = time.monotonic()
        calls: list[Any] = []
        while (due := begin + len(calls) / per_s) < begin + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.append(stub.DeclareAgent(declaration(len(calls) % AGENTS, time.monotonic_ns())))
        for call in calls:
            await call
        return len(calls)


def latency(watchers: int, per_s: float, seconds: float) -> dict[str, float]:
    """Return what watchers saw while agents changed."""
    with meshd() as (server, address):
        asyncio.run(change(address, AGENTS, 1.0))
        workers = [
            start(LOAD_CORE, "bench.watchers", "--watch", address, str(watchers // WORKERS), stdin=-1)
            for _ in range(WORKERS)
        ]
        try:
            for worker in workers:
                if first_line(worker) != "ready":
                    raise RuntimeError("a watching process did not start; see above")
            before_s = cpu_s(server.pid)
            changes = asyncio.run(change(address, per_s, seconds))
            time.sleep(1.0)
            used_s = cpu_s(server.pid) - before_s
            seen: list[float] = []
            messages = 0
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                figures = json.loads(first_line(worker))
                seen += figures["latencies_ms"]
                messages += figures["messages"]
        finally:
            for worker in workers:
                end(worker)
    seen.sort()
    return {
        "watchers": watchers,
        "changes_per_s": per_s,
        "delivered": len(seen) / (changes * watchers),
        "p50_ms": seen[len(seen) // 2],
        "p99_ms": seen[len(seen) * 99 // 100],
        "max_ms": seen[-1],
        "server_cpu": used_s / seconds,
        "server_cpu_us_per_delivery": used_s / len(seen) * 1e6,
    }


def rss_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


async def stall(address: str, server_pid: int, watchers: int) -> dict[str, float]:
    """Return what watchers cost that read their snapshot and nothing more."""
    request = registry_service_pb2.WatchAgentsRequest(namespace="default")
    channels = [
        grpc.aio.insecure_channel(address, options=OWN_CONNECTION)
        for _ in range(-(-watchers // WATCHERS_PER_CHANNEL))
    ]
    before = rss_bytes(server_pid)
    calls = []
    for number in range(watchers):
        call = registry(channels[number // WATCHERS_PER_CHANNEL]).WatchAgents(request)
        while not (await call.read()).HasField("position"):
            pass
        calls.append(call)
    watching = rss_bytes(server_pid)
    stub = registry(channels[0])
    waves_ms: list[float] = []
    for first in range(0, STALLED_CHANGES, 200):
        began = time.monotonic()
        wave = [stub.DeclareAgent(declaration((first + n) % AGENTS, first + n)) for n in range(200)]
        for call in wave:
            await call
        waves_ms.append((time.monotonic() - began) * 1e3)
    stalled = rss_bytes(server_pid)
    for call in calls:
        call.cancel()
    return {
        "watchers": watchers,
        "kib_each_connected": (watching - before) / watchers / 1024,
        "kib_each_stalled": (stalled - before) / watchers / 1024,
        # At first they still receive what fills the windows of their connections; in the end nothing moves.
        "200_changes_ms_median_first_half": median(waves_ms[: len(waves_ms) // 2]),
        "200_changes_ms_median_second_half": median(waves_ms[len(waves_ms) // 2 :]),
    }


def main() -> None:
    """Run what the options ask for and print JSON lines."""
    parser = argparse.ArgumentParser(prog="bench.watchers", description=__doc__)
    parser.add_argument("--watchers", type=int, default=1_000)
    parser.add_argument("--changes", type=float, nargs="+", default=[2, 5, 10, 50], help="a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--watch", nargs=2, metavar=("ADDRESS", "WATCHERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        asyncio.run(watch(options.watch[0], int(options.watch[1])))
        return
    for per_s in options.changes:
        print(json.dumps(latency(options.watchers, per_s, options.seconds)), flush=True)
    with meshd() as (server, address):
        asyncio.run(change(address, AGENTS, 1.0))
        print(json.dumps(asyncio.run(stall(address, server.pid, options.watchers))), flush=True)


if __name__ == "__main__":
    main()
