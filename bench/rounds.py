"""The cases of a round: each is a function that starts what it needs, measures once, and ends it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

from bench import startup
from bench.processes import LOAD_CORE, SERVER_CORE, cpu_s, end, first_line, meshd, start

CALLS_IN_FLIGHT = 256
ECHO_BATCH, ECHO_BATCHES_IN_FLIGHT = 50, 20
Measured = dict[str, Any]


def mesh(tasks: int, *options: str) -> Measured:
    """Bring so many tasks through a fresh meshd."""
    with meshd() as (server, address):
        load = start(LOAD_CORE, "bench.load", address, "--tasks", str(tasks), *options)
        return measure(server.pid, load, tasks)


def echo(shape: str, count: int, items: int, in_flight: int) -> Measured:
    """Load a bare echo; the figures are per call or message."""
    with tempfile.TemporaryDirectory() as short:
        address = f"unix:{short}/s"
        server = start(SERVER_CORE, "bench.echo", "serve", address)
        try:
            first_line(server)
            sizes = map(str, (count, items, in_flight))
            load = start(LOAD_CORE, "bench.echo", "load", address, shape, *sizes)
            return measure(server.pid, load, count)
        finally:
            end(server)


def measure(server_pid: int, load: Any, count: int) -> Measured:
    """Read what the load prints, and the processor time of the server from `ready` to the figures."""
    try:
        if first_line(load) != "ready":
            raise RuntimeError("the load did not start; see above")
        before = cpu_s(server_pid)
        printed = json.loads(first_line(load))
        figures: Measured = printed if isinstance(printed, dict) else {"per_s": printed}
        figures["cpu_us"] = (cpu_s(server_pid) - before) / count * 1e6
        return figures
    finally:
        end(load)


def cases(tasks: int) -> dict[str, Callable[[], Measured]]:
    """Return all cases by name; a batched one brings so many tasks through, the others fewer."""
    calls = tasks // 10
    one_per_call = ("--batch", "1", "--in-flight", str(CALLS_IN_FLIGHT))
    fifty = ("--batch", str(ECHO_BATCH), "--in-flight", str(ECHO_BATCHES_IN_FLIGHT))
    return {
        "batched": lambda: mesh(tasks),
        "batched, no token": lambda: mesh(tasks, "--principals", "0"),
        "batched, 100 agents": lambda: mesh(tasks, "--agents", "100"),
        "batched by 50": lambda: mesh(tasks, *fifty),
        "echo stream": lambda: echo("stream", tasks // 10, ECHO_BATCH, ECHO_BATCHES_IN_FLIGHT),
        "echo batched": lambda: echo("call", tasks // 50, 250, 40),
        "one per call": lambda: mesh(calls, *one_per_call),
        "one per call, no token": lambda: mesh(calls, *one_per_call, "--principals", "0"),
        "echo": lambda: echo("call", 2 * calls, 1, CALLS_IN_FLIGHT),
        "200 per second": lambda: mesh(2_000, "--batch", "1", "--rate", "200", "--agents", "1000"),
        "command line": startup.measure,
    }
