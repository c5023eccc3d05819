"""Overload, measured: `python -m bench.overload`. Finds what meshd can do, then offers up to ten times as much.

meshd has core 0, the flood and a fleet of agents share core 1. Goodput is tasks taken durably a second; results that the
agents brought back are shown beside it. The peak is the best of several closed loops. One meshd lives through all steps,
and its memory is the most of each step, so that it is comparable between them. What a call met is told apart: answered,
refused (with a type or without), held by the server past its deadline, or never sent for want of a free stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc.aio

from agentmesh.v1 import agent_pb2, auth_service_pb2_grpc, registry_service_pb2, registry_service_pb2_grpc
from bench.load import issue
from bench.processes import LOAD_CORE, cpu_s, end, first_line, meshd, start

TOKENS = 8


def forget_most_memory(pid: int) -> None:
    """Let the kernel count the most of a process's resident memory from here on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def most_memory_mib(pid: int) -> float:
    """Return the most resident memory that a process had since."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmHWM of process {pid}")


class Steps:
    """Runs steps of load against one meshd and keeps their figures."""

    def __init__(self, server: Any, address: str, fleet: Any, tokens: list[str]) -> None:
        self._server = server
        self._address = address
        self._fleet = fleet
        self._tokens = tokens

    def agents(self) -> dict[str, Any]:
        """Ask the fleet."""
        self._fleet.stdin.write("?\n")
        self._fleet.stdin.flush()
        figures: dict[str, Any] = json.loads(first_line(self._fleet))
        return figures

    def run(self, name: str, seconds: float, batch: int, *load: str) -> dict[str, Any]:
        """Run one flood and print its line."""
        before, cpu = self.agents(), cpu_s(self._server.pid)
        forget_most_memory(self._server.pid)
        begin = time.monotonic()
        flood = start(
            LOAD_CORE,
            *("bench.flood", self._address, "--seconds", str(seconds), "--batch", str(batch)),
            *load,
            stdin=subprocess.PIPE,
        )
        assert flood.stdin is not None
        flood.stdin.write("\n".join(self._tokens))
        flood.stdin.close()
        line = first_line(flood)
        flood.wait()
        if not line:
            raise RuntimeError("the flood failed; see above")
        figures: dict[str, Any] = json.loads(line)
        after = self.agents()
        wall = time.monotonic() - begin
        statuses = figures["statuses"]
        figures |= {
            "name": name,
            "goodput": statuses.get("OK", 0) * batch / seconds,
            "results": (after["acked"] - before["acked"]) / wall,
            "silence_s": after["silence_s"],
            "streams_ended": after["streams_ended"],
            "cpu": (cpu_s(self._server.pid) - cpu) / wall,
            "rss_mib": most_memory_mib(self._server.pid),
        }
        refused = sum(n for s, n in statuses.items() if s not in ("OK", "NEVER SENT", "DEADLINE_EXCEEDED"))
        figures["refused"] = refused
        figures["typed"] = statuses.get("RESOURCE_EXHAUSTED + RetryInfo", 0) / refused if refused else None
        figures["held"] = statuses.get("DEADLINE_EXCEEDED", 0) / figures["offered"]
        show(figures)
        return figures


def show(f: dict[str, Any]) -> None:
    """Print one step."""
    typed = "  -" if f["typed"] is None else f"{f['typed']:.1%}"
    p99_ms = f["ok_ms"]["p99"] if f["ok_ms"] else float("nan")
    print(
        f"{f['name']:11} {f['offered'] / f['seconds']:8,.0f} calls/s offered  goodput {f['goodput']:7,.0f}  "
        f"results {f['results']:7,.0f} tasks/s  p99 {p99_ms:5,.0f} ms  refused {f['refused']:6,} typed {typed:>6}  "
        f"held past the deadline {f['held']:.1%}  RSS {f['rss_mib']:4.0f} MiB  "
        f"CPU {f['cpu']:4.0%}  open {f['max_open']:6}  agents' longest silence {f['silence_s']:.1f} s, "
        f"lost {f['streams_ended']}  {f['statuses']}",
        flush=True,
    )


async def tokens_of(address: str) -> list[str]:
    """Return tokens of submitters, each seen by the server already."""
    async with grpc.aio.insecure_channel(address) as channel:
        auth: Any = auth_service_pb2_grpc.AuthServiceStub(channel)
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        tokens = []
        for n in range(TOKENS):
            metadata = await issue(auth, f"submitter-{n}", agent_pb2.AGENT_TYPE_ORCHESTRATOR)
            await registry.GetMeshStatus(registry_service_pb2.GetMeshStatusRequest(), metadata=metadata)
            tokens.append(metadata[0][1].removeprefix("Bearer "))
        return tokens


def main() -> None:
    """Run the steps and print the verdict."""
    parser = argparse.ArgumentParser(prog="bench.overload", description=__doc__)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--in-flight",
        type=int,
        nargs="+",
        default=[64, 256, 1024],
        help="open calls while the peak is sought",
    )
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 5, 10])
    options = parser.parse_args()
    with meshd() as (server, address):
        tokens = asyncio.run(tokens_of(address))
        fleet = start(
            LOAD_CORE,
            *("bench.standing_agents", address, "--agents", str(options.agents)),
            stdin=subprocess.PIPE,
        )
        try:
            if first_line(fleet) != "ready":
                raise RuntimeError("the agents did not start; see above")
            steps = Steps(server, address, fleet, tokens)
            connections = ("--connections", str(options.connections))
            steps.run("warm", 2, options.batch, "--in-flight", "64", *connections)
            peaks = [
                steps.run(f"{n} open", options.seconds, options.batch, "--in-flight", str(n), *connections)
                for n in options.in_flight
            ]
            peak = max(peaks, key=lambda step: step["goodput"])
            rate = peak["goodput"] / options.batch
            for times in options.times:
                last = steps.run(
                    f"{times:g} times",
                    options.seconds,
                    options.batch,
                    *("--rate", str(rate * times)),
                    *connections,
                )
            after = steps.run("afterwards", 2, options.batch, "--rate", str(rate / 2), *connections)
        finally:
            end(fleet)
    print(
        f"\ngoodput at {options.times[-1]:g} times: {last['goodput'] / peak['goodput']:.0%} of the peak; "
        f"RSS {last['rss_mib'] / peaks[-1]['rss_mib']:.2f} of the peak's; "
        f"held past the deadline {last['held']:.1%} of the calls; typed "
        + ("none refused" if last["typed"] is None else f"{last['typed']:.1%}")
        + f"; agents lost {last['streams_ended']}; half the peak afterwards: {after['goodput'] / (peak['goodput'] / 2):.0%} of it"
    )


if __name__ == "__main__":
    main()
