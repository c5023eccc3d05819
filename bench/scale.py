"""Fleets and backlogs: `make bench-scale`, or ``python -m bench.scale fleet|backlog`` with sizes of its own.

- ``fleet``: agents at rest, each with its own connection: server CPU, memory, discovery, false deaths, the return after kill -9.
- ``backlog``: open tasks that nobody takes: memory, what another task costs beside them, the restart, the longest pause.

The server has core 0, all load the last core; agents of a fleet are split over several processes. The JSON goes to build/bench/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from agentmesh.v1 import agent_pb2, registry_service_pb2, registry_service_pb2_grpc
from bench import discovery
from bench.processes import BUILD, LOAD_CORE, SERVER_CORE, cpu_s, end, first_line, start
from bench.rounds import measure
from meshd.domain.pacing import ping_interval_ms

AGENTS_PER_PROCESS = 2_500
SETTLE_S = 10.0
REST_S = 20.0
LOADED_TASKS = 50_000
Figures = dict[str, Any]


class Meshd:
    """A meshd on a folder of its own, that can be killed and started again."""

    def __init__(self, folder: Path, socket: str, keepalive_ms: int) -> None:
        self.folder = folder
        self.operator = f"unix:{socket}"
        self.socket = socket
        self.address = ""
        self.listen = "127.0.0.1:0"
        self.keepalive_ms = keepalive_ms
        self.starts = 0

    def start(self) -> float:
        """Start and return the seconds until it was ready."""
        begin = time.monotonic()
        self.starts += 1
        log = self.folder / f"log-{self.starts}"
        self.process = start(
            SERVER_CORE,
            "meshd",
            *("--data-dir", str(self.folder / "data"), "--socket", self.socket),
            *("--listen", self.listen, "--http-listen", "", "--log-format", "json"),
            *("--keepalive-ms", str(self.keepalive_ms)),
            stderr=log.open("w"),
        )
        while not (ready := [line for line in log.read_text().splitlines() if "meshd ready" in line]):
            if self.process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.02)
        self.address = self.listen = json.loads(ready[0])["listen"]
        return time.monotonic() - begin

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    @property
    def rss_mib(self) -> float:
        """Memory it has resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("meshd is gone")

    def status(self) -> registry_service_pb2.GetMeshStatusResponse:
        """Ask for the status."""
        return asyncio.run(self._status())

    async def _status(self) -> registry_service_pb2.GetMeshStatusResponse:
        async with grpc.aio.insecure_channel(self.operator) as channel:
            registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
            answer: registry_service_pb2.GetMeshStatusResponse = await registry.GetMeshStatus(
                registry_service_pb2.GetMeshStatusRequest()
            )
            return answer


@contextmanager
def meshd(agents: int = 0) -> Iterator[Meshd]:
    """Run a fresh meshd, its pings set as for a fleet of so many agents that is planned."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, tempfile.TemporaryDirectory() as short:
        running = Meshd(Path(folder), f"{short}/s", ping_interval_ms(1_000, agents))
        running.start()
        try:
            yield running
        finally:
            end(running.process)


@contextmanager
def fleet(server: Meshd, agents: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Connect a fleet; yields its processes."""
    parts = [
        start(
            LOAD_CORE,
            "bench.fleet",
            *(server.address, server.operator, str(first), str(min(AGENTS_PER_PROCESS, agents - first))),
            stdin=subprocess.PIPE,
        )
        for first in range(0, agents, AGENTS_PER_PROCESS)
    ]
    try:
        for part in parts:
            if first_line(part) != "ready":
                raise RuntimeError("a part of the fleet did not connect; see above")
        yield parts
    finally:
        for part in parts:
            end(part)


def ask(parts: list[subprocess.Popen[str]]) -> Figures:
    """Return what the parts of a fleet have seen together."""
    answers = []
    for part in parts:
        assert part.stdin is not None
        part.stdin.write("\n")
        part.stdin.flush()
        answers.append(json.loads(first_line(part)))
    return {
        "connected": sum(each["connected"] for each in answers),
        "deaths": sum(each["deaths"] for each in answers),
        "returned_ago_s": min(each["returned_ago_s"] for each in answers),
    }


@contextmanager
def probed(server: Meshd, figures: Figures, name: str) -> Iterator[None]:
    """Measure the longest pause of meshd while a block runs."""
    probe = start(LOAD_CORE, "bench.probe", server.operator, stdin=subprocess.PIPE)
    first_line(probe)
    yield
    assert probe.stdin is not None
    probe.stdin.close()
    figures[name] = json.loads(first_line(probe))
    probe.wait()


def run_fleet(agents: int) -> Figures:
    """Measure a fleet at rest, then its return after a kill of meshd."""
    figures: Figures = {"agents": agents}
    with meshd(agents) as server:
        empty_mib = server.rss_mib
        begin = time.monotonic()
        with fleet(server, agents) as parts:
            figures["connect_s"] = time.monotonic() - begin
            asyncio.run(discovery.declare_spares(server.operator))
            for name in ("as connected", "after a restart"):
                # The new pace arrives with the next beats.
                time.sleep(SETTLE_S)
                status = server.status()
                with probed(server, figures, f"pauses at rest, {name}"):
                    time.sleep(REST_S / 2)
                cpu = cpu_s(server.process.pid)
                time.sleep(REST_S)
                figures[name] = {
                    "cpu_share": (cpu_s(server.process.pid) - cpu) / REST_S,
                    "rss_kib_per_agent": (server.rss_mib - empty_mib) * 1024 / agents,
                    "hung_bound_s": status.bounds.hung.ToMilliseconds() / 1000,
                    "unreachable_bound_s": status.bounds.unreachable.ToMilliseconds() / 1000,
                    "discovery": _questions(server),
                    **ask(parts),
                }
                if name == "as connected":
                    figures["return"] = _kill_and_wait(server, parts, agents)
            health = {c.health: c.count for c in server.status().namespaces[0].agents}
            figures["healthy_at_the_end"] = health.get(agent_pb2.HEALTH_HEALTHY, 0)
    return figures


def _questions(server: Meshd) -> Figures:
    figures: Figures = {}
    with probed(server, figures, "pauses of searches"):
        figures.update(asyncio.run(discovery.search(server.operator)))
    with probed(server, figures, "pauses of explanations"):
        figures["explained"] = asyncio.run(discovery.explain(server.operator))
    return figures


def _kill_and_wait(server: Meshd, parts: list[subprocess.Popen[str]], agents: int) -> Figures:
    """Kill meshd, start it, and measure how long its agents took to come back."""
    server.kill()
    ready_s = server.start()
    ready_mono = time.monotonic()
    hold_s = server.status().hold_remaining.ToMilliseconds() / 1000
    while (seen := ask(parts))["connected"] < agents and time.monotonic() < ready_mono + 120:
        time.sleep(0.2)
    all_back_s = time.monotonic() - ready_mono - seen["returned_ago_s"]
    time.sleep(max(0.0, hold_s - (time.monotonic() - ready_mono)) + 2.0)
    return {"ready_s": ready_s, "hold_s": hold_s, "all_back_s": all_back_s, **ask(parts)}


def _load(server: Meshd) -> Figures:
    load = start(LOAD_CORE, "bench.load", server.operator, "--tasks", str(LOADED_TASKS))
    return measure(server.process.pid, load, LOADED_TASKS)


def run_backlog(tasks: int) -> Figures:
    """Measure a backlog of tasks, and other tasks beside it."""
    figures: Figures = {"open_tasks": tasks}
    with meshd() as server:
        empty_mib = server.rss_mib
        with probed(server, figures, "pauses beside nothing"):
            figures["beside nothing"] = [_load(server) for _ in range(3)]
        with probed(server, figures, "pauses while submitting"):
            submitting = start(LOAD_CORE, "bench.backlog", server.operator, str(tasks))
            before = cpu_s(server.process.pid)
            figures["submitted_per_s"] = float(first_line(submitting))
            submitting.wait()
            figures["submit_cpu_us"] = (cpu_s(server.process.pid) - before) / tasks * 1e6
        figures["rss_mib"] = server.rss_mib
        figures["rss_bytes_per_task"] = (server.rss_mib - empty_mib) * 2**20 / tasks
        with probed(server, figures, "pauses beside the backlog"):
            figures["beside the backlog"] = [_load(server) for _ in range(3)]
        with probed(server, figures, "pauses of statuses"):
            begin = time.monotonic()
            for _ in range(10):
                server.status()
            figures["status_s"] = (time.monotonic() - begin) / 10
        with probed(server, figures, "pauses of explanations"):
            figures["explained"] = asyncio.run(discovery.explain(server.operator))
        server.kill()
        figures["restart_s"] = server.start()
        with probed(server, figures, "pauses after the restart"):
            time.sleep(REST_S)
        figures["rss_mib_after_restart"] = server.rss_mib
        with probed(server, figures, "pauses beside the restored backlog"):
            figures["beside the restored backlog"] = [_load(server)]
    return figures


def main() -> None:
    """Run what is asked for; without words all of it."""
    parser = argparse.ArgumentParser(
        prog="bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=[[], "fleet", "backlog"])
    parser.add_argument("--agents", type=int, action="append", help="sizes of fleets; 1,000 and 10,000")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="open tasks of the backlog")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    what = options.what or ["fleet", "backlog"]
    figures: Figures = {}
    if "fleet" in what:
        for agents in options.agents or [1_000, 10_000]:
            print(f"a fleet of {agents:,}", file=sys.stderr, flush=True)
            figures[f"fleet of {agents}"] = run_fleet(agents)
    if "backlog" in what:
        print(f"a backlog of {options.tasks:,}", file=sys.stderr, flush=True)
        figures["backlog"] = run_backlog(options.tasks)
    text = json.dumps(figures, indent=1)
    path = BUILD / f"scale-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(text)
    print(text)
    print(f"kept in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
