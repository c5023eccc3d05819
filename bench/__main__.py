"""Runs the rounds in turn and prints the table; the JSON goes to build/bench/.

The server has core 0 to itself, the load core 1. Each round has a fresh meshd with its database on the disk of this
checkout. Quote medians and ratios: absolute figures move with the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

OUT = Path("build/bench")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
UNARY_IN_FLIGHT = 256
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
GOALS = {
    "batched, 8 agents": "≥ 10,000/s",
    "batched, 100 agents": "≥ 10,000/s",
    "one per call": "≥ 0.4 of the echo",
}


def start(core: int, *command: str, **options: Any) -> subprocess.Popen[str]:
    """Start a Python module on one core."""
    process = subprocess.Popen([sys.executable, "-m", *command], text=True, stdout=subprocess.PIPE, **options)
    os.sched_setaffinity(process.pid, {core})
    return process


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the next line a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """End a process by its id."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def meshd() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a fresh meshd; yields it and the address of its socket."""
    with tempfile.TemporaryDirectory(dir=OUT) as folder, tempfile.TemporaryDirectory() as short:
        socket = f"{short}/s"
        process = start(
            SERVER_CORE,
            *(
                "meshd",
                "--data-dir",
                f"{folder}/data",
                "--socket",
                socket,
                "--listen",
                "",
                "--http-listen",
                "",
            ),
            stderr=(Path(folder) / "log").open("w"),
        )
        try:
            while "meshd ready" not in (Path(folder) / "log").read_text():
                if process.poll() is not None:
                    raise RuntimeError((Path(folder) / "log").read_text())
                time.sleep(0.05)
            yield process, f"unix:{socket}"
        finally:
            end(process)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def round_of(tasks: int, *options: str) -> dict[str, Any]:
    """Run one round of load against a fresh meshd."""
    with meshd() as (server, address):
        load = start(LOAD_CORE, "bench.load", address, "--tasks", str(tasks), *options)
        try:
            if first_line(load) != "ready":
                raise RuntimeError("the load did not start; see above")
            before = cpu_s(server.pid)
            figures: dict[str, Any] = json.loads(first_line(load))
            figures["cpu_us"] = (cpu_s(server.pid) - before) / tasks * 1e6
            return figures
        finally:
            end(load)


def echo_round(calls: int) -> float:
    """Return the rate of the bare echo."""
    with tempfile.TemporaryDirectory() as short:
        server = start(SERVER_CORE, "bench.echo", "serve", f"unix:{short}/s")
        try:
            first_line(server)
            load = start(LOAD_CORE, "bench.echo", "load", f"unix:{short}/s", str(calls), str(UNARY_IN_FLIGHT))
            rate = float(first_line(load))
            load.wait()
            return rate
        finally:
            end(server)


def main() -> None:
    """Run all rounds in turn and print the table."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=50_000, help="tasks of a batched round")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    calls = options.tasks // 10
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append(
            {
                "batched, 8 agents": round_of(options.tasks, "--agents", "8"),
                "batched, 100 agents": round_of(options.tasks, "--agents", "100"),
                "echo": echo_round(2 * calls),
                "one per call": round_of(calls, "--batch", "1", "--in-flight", str(UNARY_IN_FLIGHT)),
                "200 per second": round_of(2_000, "--batch", "1", "--rate", "200"),
            }
        )
    report(rounds)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    (OUT / f"{stamp}.json").write_text(json.dumps(rounds, indent=1))
    print(f"\nrounds: {OUT / stamp}.json")


def report(rounds: list[dict[str, Any]]) -> None:
    """Print medians, ratios and goals."""

    def mid(case: str, figure: str) -> float:
        return float(median(r[case][figure] for r in rounds))

    print(f"\n{len(rounds)} rounds, medians; 1,000 submitting principals, every call with a token\n")
    for case in ("batched, 8 agents", "batched, 100 agents"):
        rate, cpu = mid(case, "per_s"), mid(case, "cpu_us")
        print(f"{case:22} {rate:9,.0f} tasks/s  {cpu:6.0f} µs server CPU a task   goal {GOALS[case]}")
    ratio = median(r["one per call"]["per_s"] / r["echo"] for r in rounds)
    echo = median(r["echo"] for r in rounds)
    rate, cpu = mid("one per call", "per_s"), mid("one per call", "cpu_us")
    print(f"{'one per call':22} {rate:9,.0f} tasks/s  {cpu:6.0f} µs server CPU a task")
    print(f"{'bare echo':22} {echo:9,.0f} calls/s")
    print(
        f"{'one per call / echo':22} {ratio:9.2f}                                     goal {GOALS['one per call']}"
    )
    for figure, words in (("assigned_ms", "submit → assigned"), ("result_ms", "submit → result")):
        p50, p99 = (median(r["200 per second"][figure][p] for r in rounds) for p in ("p50", "p99"))
        print(f"{words:22} p50 {p50:5.1f} ms  p99 {p99:5.1f} ms at 200 tasks/s")


if __name__ == "__main__":
    main()
