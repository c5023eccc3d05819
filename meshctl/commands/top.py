"""`meshctl top`: agents, slots, queues and throughput, again and again."""

from __future__ import annotations

import datetime
import shutil
import sys
import time
from typing import NamedTuple

import click

from agentmesh.v1 import agent_pb2, registry_service_pb2
from meshctl import options, output, refreshing, words
from meshctl.agents import list_agents
from meshctl.commands.status import NAMESPACE_HEADERS, busy, namespace_row, note_idle
from meshctl.problems import ExitCode

_AGENT_HEADERS = ("NAMESPACE", "AGENT", "HEALTH", "HELD/SLOTS", "FREE", "CAPABILITIES")
_LINES_ABOVE = 6
_SHOWN_WITHOUT_TERMINAL = 1_000


class _Sample(NamedTuple):
    mono_s: float
    status: registry_service_pb2.GetMeshStatusResponse


@click.command()
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.duration_option("--interval", "Time between two views. Default: 1s.", default="1s")
@click.option(
    "--once", is_flag=True, help="Show one view, after one interval, and end; so does output into a pipe."
)
@options.mesh_command
def top(
    invocation: options.Invocation, namespace: str | None, interval: datetime.timedelta, once: bool
) -> ExitCode:
    """Show agents, slots, queues and throughput, again and again until Ctrl-C; busy agents come first."""
    mesh = invocation.mesh
    request = registry_service_pb2.GetMeshStatusRequest(namespace=namespace or "")

    def sample() -> _Sample:
        return _Sample(time.monotonic(), mesh.call(mesh.registry.GetMeshStatus, request))

    def wait() -> None:
        time.sleep(interval.total_seconds())

    before = sample()

    def show() -> None:
        nonlocal before
        now = sample()
        _write(invocation, now, _rates(before, now), list_agents(mesh, namespace=namespace))
        before = now

    wait()
    if once or not sys.stdout.isatty():
        show()
        return ExitCode.DONE
    return refreshing.refresh(show, wait)


def _rates(before: _Sample, now: _Sample) -> dict[str, float]:
    """Returns tasks ended a second, by namespace; a restart of meshd in between counts as a beginning."""
    passed_s = max(now.mono_s - before.mono_s, 1e-9)
    known = {(entry.namespace, entry.epoch): entry.ended_count for entry in before.status.namespaces}
    return {
        entry.namespace: (entry.ended_count - known.get((entry.namespace, entry.epoch), entry.ended_count))
        / passed_s
        for entry in now.status.namespaces
    }


def _write(
    invocation: options.Invocation, now: _Sample, rates: dict[str, float], agents: list[agent_pb2.Agent]
) -> None:
    agents.sort(key=lambda agent: -agent.held_attempts)
    if invocation.json:
        output.write_json_line(
            {
                "status": output.as_dict(now.status),
                "ended_per_s": rates,
                "agents": [output.as_dict(agent) for agent in agents],
            }
        )
        return
    entries = busy(now.status.namespaces)
    output.write_table(
        (*NAMESPACE_HEADERS, "ENDED/S"), [(*namespace_row(e), f"{rates[e.namespace]:.1f}") for e in entries]
    )
    note_idle(len(now.status.namespaces) - len(entries))
    click.echo()
    room = _SHOWN_WITHOUT_TERMINAL
    if sys.stdout.isatty():
        room = max(1, shutil.get_terminal_size().lines - _LINES_ABOVE - len(entries))
    output.write_table(_AGENT_HEADERS, [_row(agent) for agent in agents[:room]])
    if len(agents) > room:
        output.note(f"and {len(agents) - room} agents that hold less")


def _row(agent: agent_pb2.Agent) -> tuple[str, ...]:
    return (
        agent.namespace,
        agent.spec.agent_id,
        words.health_word(agent.health),
        f"{agent.held_attempts}/{agent.spec.slots}",
        str(agent.free_slots),
        ",".join(agent.spec.capabilities),
    )
