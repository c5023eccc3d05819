"""Overload, measured: `python -m bench.overload`. Finds what meshd can do, then offers up to ten times as much.

meshd has core 0, the flood and a fleet of agents share core 1. Goodput is tasks taken durably a second; results that the
agents brought back are shown beside it. The peak is the best of several closed loops, and takes turns with the flood. One
meshd lives through all steps. First it has so many tasks behind it that its caches are full: what they would grow by while
a flood lasts would be counted as the flood's. Its memory is the most of each step. What a call
met is told apart: answered, refused (with a type or without), held by the server past its deadline, or never sent for want
of a free stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import grpc.aio

from agentmesh.v1 import agent_pb2, auth_service_pb2_grpc, registry_service_pb2, registry_service_pb2_grpc
from bench.load import issue
from bench.processes import LOAD_CORE, cpu_s, end, first_line, meshd, start

TOKENS = 8
WARM_BATCH = 50
TYPED, HELD, NEVER_SENT = "RESOURCE_EXHAUSTED + RetryInfo", "DEADLINE_EXCEEDED", "NEVER SENT"


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
        refused = sum(n for s, n in statuses.items() if s not in ("OK", NEVER_SENT, HELD))
        figures["refused"] = refused
        figures["typed"] = statuses.get(TYPED, 0) / refused if refused else None
        figures["held"] = statuses.get(HELD, 0) / figures["offered"]
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
    options = parse()
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
            verdict(sought_and_flooded(Steps(server, address, fleet, tokens), options))
        finally:
            end(fleet)


def sought_and_flooded(steps: Steps, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seek the peak, then let it and the flood take turns; return all steps."""
    seconds, batch = options.seconds, options.batch
    connections = ["--connections", str(options.connections)]
    connections += ["--clock-from-send"] if options.clock_from_send else []
    while steps.agents()["acked"] < options.warm_tasks:
        steps.run("warm", 5, WARM_BATCH, "--in-flight", "32")

    def closed_loop(in_flight: int) -> dict[str, Any]:
        return steps.run(f"{in_flight} open", seconds, batch, "--in-flight", str(in_flight), *connections)

    def open_loop(name: str, seconds: float, times: float) -> dict[str, Any]:
        return steps.run(name, seconds, batch, "--rate", str(rate * times), *connections)

    steps.run("warm", 2, batch, "--in-flight", "64", *connections)
    levels = [closed_loop(in_flight) for in_flight in options.in_flight]
    done = levels
    best = max(range(len(levels)), key=lambda n: levels[n]["goodput"])
    rate = levels[best]["goodput"] / batch
    for _ in range(options.rounds):
        done += [open_loop(f"{times:g} times", seconds, times) for times in options.times]
        done += [open_loop("afterwards", 2, 0.5), closed_loop(options.in_flight[best])]
    return done


def verdict(steps: list[dict[str, Any]]) -> None:
    """Print what the flood left of the peak: each against the peaks before and after it, for the machine drifts.

    Memory is compared with the most of the closed loops before the first flood.
    """
    last = next(step["name"] for step in reversed(steps) if step["name"].endswith("times"))
    flooded = [step for step in steps if step["name"] == last]
    peaks = [step["goodput"] for step in steps if step["name"] == steps[-1]["name"]]
    kept = sorted(
        flood["goodput"] / mean(around) for flood, around in zip(flooded, pairwise(peaks), strict=True)
    )
    refused, offered = (sum(step[kind] for step in flooded) for kind in ("refused", "offered"))
    typed, held = (sum(step["statuses"].get(kind, 0) for step in flooded) for kind in (TYPED, HELD))
    after = [step["goodput"] / (peaks[0] / 2) for step in steps if step["name"] == "afterwards"]
    before_mib = max(step["rss_mib"] for step in steps[: steps.index(flooded[0])])
    more = sorted(flood["rss_mib"] / before_mib for flood in flooded)
    print(
        f"\n{last}: goodput {median(kept):.0%} of the peak ({kept[0]:.0%} to {kept[-1]:.0%}), which is {median(peaks):,.0f}; "
        f"{refused:,} refused{f', {typed / refused:.1%} of them typed' if refused else ''}; "
        f"{held / offered:.1%} of the calls held past their deadline; "
        f"RSS {median(more):.2f} of the {before_mib:.0f} MiB at the peak ({more[0]:.2f} to {more[-1]:.2f}); "
        f"agents lost {steps[-1]['streams_ended']}; of half the peak afterwards {median(after):.0%} served"
    )


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="bench.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument(
        "--warm-tasks", type=int, default=200_000, help="tasks done before anything is measured"
    )
    parser.add_argument("--times", type=float, nargs="+", default=[10])
    parser.add_argument("--rounds", type=int, default=2, help="how often flood and peak take turns")
    parser.add_argument("--clock-from-send", action="store_true", help="see bench.flood")
    return parser.parse_args()


if __name__ == "__main__":
    main()
