"""`meshctl agent`: lists, shows and revokes agents."""

from __future__ import annotations

from collections.abc import Sequence

import click

from agentmesh.v1 import auth_service_pb2, registry_service_pb2
from meshctl import namespaces, options, output, rows
from meshctl.agents import list_agents
from meshctl.revoking import revoke

_NAMESPACE_HELP = "Namespace of the agent. Default: the one that has it."


@click.group()
def agent() -> None:
    """List, get and revoke agents."""


@agent.command("list")
@options.agent_type_option(required=False, help_text="Only agents of this type.")
@options.capabilities_option("Only agents with all these skills, separated by commas.")
@options.health_option("Only agents of this health; may be given more than once.")
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.mesh_command
def list_command(
    invocation: options.Invocation,
    namespace: str | None,
    agent_type: str | None,
    capabilities: list[str],
    health: Sequence[str],
) -> None:
    """List agents and how they are."""
    agents = list_agents(invocation.mesh, namespace, agent_type, capabilities, health)
    if invocation.json:
        output.write_json({"agents": [output.as_dict(item) for item in agents]})
    elif agents:
        output.write_table(rows.AGENT_HEADERS, [rows.agent_row(item) for item in agents])
    else:
        output.note("No agents match. Make one known: meshctl deploy --help")


@agent.command("get")
@click.argument("agent_id")
@options.namespace_option(_NAMESPACE_HELP)
@options.mesh_command
def get_agent(invocation: options.Invocation, agent_id: str, namespace: str | None) -> None:
    """Show one agent."""
    mesh = invocation.mesh
    name = namespaces.of_agent(mesh, namespace, agent_id)
    request = registry_service_pb2.GetAgentRequest(namespace=name, agent_id=agent_id)
    found = mesh.call(mesh.registry.GetAgent, request).agent
    if invocation.json:
        output.write_json(found)
    else:
        output.write_fields(rows.agent_fields(found))


@agent.command("revoke")
@click.argument("agent_id")
@click.option("--reason", metavar="TEXT", default="", help="Words for the audit log.")
@options.namespace_option(_NAMESPACE_HELP)
@options.mesh_command
def revoke_agent(invocation: options.Invocation, agent_id: str, reason: str, namespace: str | None) -> None:
    """Take all tokens, the key and the sessions of an agent away."""
    name = namespaces.of_agent(invocation.mesh, namespace, agent_id)
    revoke(invocation, auth_service_pb2.RevokeTokenRequest(namespace=name, agent_id=agent_id, reason=reason))
