"""`meshctl auth`: issues a token. Standard output is the token alone, so that `$(meshctl auth …)` works."""

from __future__ import annotations

import datetime

import click

from agentmesh.v1 import auth_service_pb2
from meshctl import namespaces, options, output, words


@click.command()
@click.option("--agent-id", metavar="ID", required=True, help="The agent that shall hold the token.")
@options.agent_type_option(required=True, help_text="Its role.")
@options.namespace_option("Its namespace. Default: the one that has the agent, else default; or the token's.")
@options.capabilities_option('Skills it may register, separated by commas; "*" means any. Default: none.')
@click.option(
    "--scope",
    metavar="ACTION:RESOURCE",
    multiple=True,
    help="Narrows what its role may do, such as read:tasks; may be given more than once.",
)
@options.duration_option("--ttl", "How long the token is good, at most 1h.", default="1h", show_default=True)
@options.mesh_command
def auth(
    invocation: options.Invocation,
    agent_id: str,
    agent_type: str,
    namespace: str | None,
    capabilities: list[str],
    scope: tuple[str, ...],
    ttl: datetime.timedelta,
) -> None:
    """Issue a token for an agent and print it.

    Only the token goes to standard output: AGENTMESH_TOKEN=$(meshctl auth ...).
    """
    mesh = invocation.mesh
    name = namespaces.for_agent(mesh, namespace, agent_id)
    issued = mesh.call(
        mesh.auth.IssueToken,
        auth_service_pb2.IssueTokenRequest(
            namespace=name,
            agent_id=agent_id,
            type=words.type_value(agent_type),
            capabilities=capabilities,
            scope=scope,
            lifetime=options.duration(ttl),
        ),
    )
    if invocation.json:
        output.write_json(issued)
        return
    click.echo(issued.token.value)
    where = f" in {name}" if name else ""
    output.note(
        f"Token of {agent_type} {agent_id}{where}, good until {output.clock_of(issued.token.expire_time)}; "
        f"take it away with  meshctl token revoke --family {issued.token.family}"
    )
