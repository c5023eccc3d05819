"""`meshctl auth`: issues a token, to an agent or to a named operator. Standard output is the token alone, so that `$(meshctl auth …)` works."""

from __future__ import annotations

import datetime

import click

from agentmesh.v1 import auth_service_pb2
from meshctl import namespaces, options, output, rights, words
from meshctl.problems import usage

# Less is the way of the answer and the rounding of the token's end.
_CLOCKS_APART = datetime.timedelta(minutes=1)


@click.command()
@click.option("--agent-id", metavar="ID", default="", help="The agent that shall hold the token.")
@options.agent_type_option(required=False, help_text="Its role.")
@click.option("--operator", is_flag=True, help="For a person instead, who then operates every namespace.")
@click.option("--subject", metavar="NAME", default="", help="With --operator: the person's name.")
@options.namespace_option("Its namespace. Default: the one that has the agent, else default; or the token's.")
@options.capabilities_option('Skills it may register, separated by commas; "*" means any. Default: none.')
@click.option(
    "--scope",
    metavar="ACTION:RESOURCE",
    multiple=True,
    help="Narrows what its holder may do, such as read:tasks; may be given more than once.",
)
@options.duration_option(
    "--ttl", "How long it is good: at most 1h, with --operator 24h.", default="1h", show_default=True
)
@options.mesh_command
def auth(
    invocation: options.Invocation,
    agent_id: str,
    agent_type: str | None,
    operator: bool,
    subject: str,
    namespace: str | None,
    capabilities: list[str],
    scope: tuple[str, ...],
    ttl: datetime.timedelta,
) -> None:
    """Issue a token for an agent or an operator and print it.

    Only the token goes to standard output: AGENTMESH_TOKEN=$(meshctl auth ...).
    """
    mesh = invocation.mesh
    request = auth_service_pb2.IssueTokenRequest(scope=scope, lifetime=options.duration(ttl))
    if operator:
        if not subject or agent_id or agent_type or capabilities:
            raise usage(
                "--operator takes --subject NAME, and none of --agent-id, --agent-type, --capabilities",
                "meshctl auth --operator --subject NAME --ttl 8h",
            )
        request.namespace, request.agent_id = namespaces.SYSTEM, subject
        holder, revocation = f"operator {subject}", f"--subject {subject}"
    else:
        if not agent_id or not agent_type or subject:
            raise usage(
                "an agent's token takes --agent-id and --agent-type; --subject goes with --operator",
                "meshctl auth --agent-id ID --agent-type TYPE",
            )
        request.namespace = namespaces.for_agent(mesh, namespace, agent_id)
        request.agent_id, request.type = agent_id, words.type_value(agent_type)
        request.capabilities.extend(capabilities)
        where = f" in {request.namespace}" if request.namespace else ""
        holder, revocation = f"{agent_type} {agent_id}{where}", ""
    issued = mesh.call(mesh.auth.IssueToken, request)
    if invocation.json:
        output.write_json(issued)
        return
    click.echo(issued.token.value)
    output.note(
        f"Token of {holder}, good until {output.clock_of(issued.token.expire_time)}; take it away with  "
        f"meshctl token revoke {revocation or f'--family {issued.token.family}'}"
    )
    if scope:
        output.note(f"It may do: {rights.text('' if operator else agent_type or '', scope)}")
    apart = output.moment(issued.token.expire_time) - ttl - datetime.datetime.now(datetime.UTC)
    if abs(apart) > _CLOCKS_APART:
        minutes = round(abs(apart).total_seconds() / 60)
        side = "ahead of" if apart > datetime.timedelta() else "behind"
        output.note(
            f"meshd's clock is {output.length_of(60 * minutes)} {side} this host's; its own decides when the token ends."
        )
