"""`meshctl status`: bounds in force, namespaces and agents."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from agentmesh.v1 import registry_service_pb2
from meshctl import options, output, refreshing, rows, words
from meshctl.agents import list_agents
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode
from meshctl.watching import Watcher

_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.5
NAMESPACE_HEADERS = ("NAMESPACE", "AGENTS", "OPEN TASKS", "FREE SLOTS", "OLDEST QUEUED")


@click.command()
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.health_option("Only agents of this health; may be given more than once.")
@click.option(
    "--watch", is_flag=True, help="Show it again whenever agents change, and every 5 s, until Ctrl-C."
)
@options.mesh_command
def status(
    invocation: options.Invocation, namespace: str | None, health: Sequence[str], watch: bool
) -> ExitCode:
    """Show the mesh: bounds in force, namespaces and agents."""
    if not watch:
        _show(invocation, namespace, health)
        return ExitCode.DONE
    mesh = invocation.mesh
    names = [namespace] if namespace else mesh.namespace_names()
    with Watcher(mesh, names, agents=True, tasks=False) as watcher:
        changes = watcher.news(idle_s=_LONGEST_PAUSE_S)

        def wait() -> None:
            time.sleep(_SHORTEST_PAUSE_S)
            # All that came meanwhile is in the next view.
            next(changes)
            watcher.skip()

        return refreshing.refresh(lambda: _show(invocation, namespace, health, line=True), wait)


def _show(
    invocation: options.Invocation, namespace: str | None, health: Sequence[str], *, line: bool = False
) -> None:
    mesh = invocation.mesh
    request = registry_service_pb2.GetMeshStatusRequest(namespace=namespace or "")
    summary = mesh.call(mesh.registry.GetMeshStatus, request)
    agents = list_agents(mesh, namespace=namespace, health=health)
    if invocation.json:
        write = output.write_json_line if line else output.write_json
        write({"status": output.as_dict(summary), "agents": [output.as_dict(agent) for agent in agents]})
        return
    _write_summary(mesh, summary)
    click.echo()
    shown = busy(summary.namespaces)
    output.write_table(NAMESPACE_HEADERS, [namespace_row(entry) for entry in shown])
    note_idle(len(summary.namespaces) - len(shown))
    click.echo()
    if agents:
        output.write_table(rows.AGENT_HEADERS, [rows.agent_row(agent) for agent in agents])
    else:
        output.note(
            f"No {' or '.join(health)} agents."
            if health
            else "No agents. Make one known: meshctl deploy --help"
        )


def _write_summary(mesh: Mesh, summary: registry_service_pb2.GetMeshStatusResponse) -> None:
    click.echo(f"meshd {summary.version} at {mesh.target.address}, up {output.age_of(summary.start_time)}")
    bounds = summary.bounds
    click.echo(
        "A lost agent is found: killed within "
        f"{output.length_of(output.seconds_of(bounds.killed))}, frozen host or lost network within "
        f"{output.length_of(output.seconds_of(bounds.unreachable))}, hung within "
        f"{output.length_of(output.seconds_of(bounds.hung))}"
    )
    hold_s = output.seconds_of(summary.hold_remaining)
    if hold_s > 0:
        click.echo(
            f"Hold after a restart: agents have {output.length_of(hold_s)} more to return to their tasks"
        )


def busy(
    entries: Sequence[registry_service_pb2.NamespaceStatus],
) -> Sequence[registry_service_pb2.NamespaceStatus]:
    """Returns the namespaces with agents or open tasks; all when none has any."""
    found = [e for e in entries if any(i.count for i in e.agents) or any(i.count for i in e.tasks)]
    return found or entries


def note_idle(count: int) -> None:
    """Says how many namespaces are not shown."""
    if count:
        output.note(f"{count:,} more have neither agents nor open tasks: meshctl namespace list")


def namespace_row(entry: registry_service_pb2.NamespaceStatus) -> tuple[str, ...]:
    """Returns a namespace as a row under NAMESPACE_HEADERS."""
    agents = (f"{item.count} {words.health_word(item.health)}" for item in entry.agents if item.count)
    tasks = (f"{item.count} {words.state_word(item.state)}" for item in entry.tasks if item.count)
    age = entry.oldest_queued_age
    return (
        entry.namespace,
        ", ".join(agents) or "none",
        ", ".join(tasks) or "none",
        str(entry.free_slots),
        output.length_of(output.seconds_of(age)) if entry.HasField("oldest_queued_age") else "",
    )
