"""`meshctl discover`: finds agents by type, capability and health."""

from __future__ import annotations

from collections.abc import Sequence

import click

from agentmesh.v1 import agent_pb2
from meshctl import options, output, rows, words
from meshctl.agents import list_agents

_HEADERS = ("NAMESPACE", "AGENT", "NAME", "TYPE", "HEALTH", "FREE/SLOTS", "ENDPOINT", "CAPABILITIES")


@click.command()
@options.agent_type_option(required=False, help_text="Only agents of this type.")
@options.capabilities_option("Only agents with all these skills, separated by commas.")
@options.health_option("Only agents of this health; may be given more than once.")
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.mesh_command
def discover(
    invocation: options.Invocation,
    namespace: str | None,
    agent_type: str | None,
    capabilities: list[str],
    health: Sequence[str],
) -> None:
    """Find agents by type, capability and health."""
    agents = list_agents(invocation.mesh, namespace, agent_type, capabilities, health)
    if invocation.json:
        output.write_json({"agents": [output.as_dict(agent) for agent in agents]})
    elif agents:
        output.write_table(_HEADERS, [_row(agent) for agent in agents])
    else:
        output.note("No agents match. See all of them: meshctl status")


def _row(agent: agent_pb2.Agent) -> tuple[str, ...]:
    spec = agent.spec
    return (
        agent.namespace,
        spec.agent_id,
        spec.name,
        words.type_word(spec.type),
        words.health_word(agent.health),
        f"{agent.free_slots}/{spec.slots}",
        rows.endpoint_text(spec.endpoint),
        ",".join(spec.capabilities),
    )
