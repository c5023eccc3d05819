"""`meshctl token`: explains and revokes tokens, creates join tokens, lists the keys that sign."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator

import click

from agentmesh.v1 import auth_service_pb2
from meshctl import namespaces, options, output, rights, words
from meshctl.problems import usage
from meshctl.revoking import revoke

_KEY_HEADERS = ("KEY", "CREATED", "PUBLIC KEY")


@click.group()
def token() -> None:
    """Introspect and revoke tokens, create join tokens, list keys."""


@token.command("introspect")
@click.argument("value", metavar="[TOKEN|-]", default="")
@options.mesh_command
def introspect_token(invocation: options.Invocation, value: str) -> None:
    """Tell what a token means and whether it is good. Default: the caller's own; "-" reads standard input."""
    mesh = invocation.mesh
    request = auth_service_pb2.IntrospectTokenRequest(token=_token_value(value))
    if not request.token and not mesh.metadata:
        raise usage(
            "no token to explain: the operator socket needs none", "name one: meshctl token introspect TOKEN"
        )
    answer = mesh.call(mesh.auth.IntrospectToken, request)
    if invocation.json:
        output.write_json(answer)
    else:
        output.write_fields(_fields(answer))


@token.command("revoke")
@click.argument("value", metavar="[TOKEN|-]", default="")
@click.option(
    "--family", metavar="ID", default="", help="All tokens renewed from one another, by their family's id."
)
@click.option(
    "--agent-id", metavar="ID", default="", help="All tokens, the key and the sessions of an agent."
)
@click.option("--subject", metavar="NAME", default="", help="All tokens of a named operator.")
@click.option("--reason", metavar="TEXT", default="", help="Words for the audit log.")
@options.namespace_option("Namespace of the token. Default: the one its token or its agent is in.")
@options.mesh_command
def revoke_token(
    invocation: options.Invocation,
    value: str,
    family: str,
    agent_id: str,
    subject: str,
    reason: str,
    namespace: str | None,
) -> None:
    """Take away a token with its family, a family, an agent or an operator; "-" reads the token from stdin."""
    if sum(map(bool, (value, family, agent_id, subject))) != 1:
        raise usage("name one of TOKEN, --family, --agent-id and --subject", "meshctl token revoke --help")
    mesh = invocation.mesh
    request = auth_service_pb2.RevokeTokenRequest(namespace=namespace or "", reason=reason)
    if agent_id:
        request.namespace = namespaces.of_agent(mesh, namespace, agent_id)
        request.agent_id = agent_id
    elif subject:
        request.namespace, request.agent_id = namespaces.SYSTEM, subject
    elif family:
        request.family = family
    else:
        request.token = _token_value(value)
    revoke(invocation, request)


@token.command("join-token")
@click.option("--agent-id", metavar="ID", required=True, help="The agent that may join with it.")
@options.agent_type_option(required=True, help_text="Its role.")
@options.namespace_option("Its namespace. Default: the one that has the agent, else default; or the token's.")
@options.capabilities_option('Skills it may register, separated by commas; "*" means any. Default: none.')
@options.duration_option("--ttl", "How long it is good, at most 24h.", default="10m", show_default=True)
@click.option(
    "--max-uses",
    type=click.IntRange(1, 1_000),
    default=1,
    show_default=True,
    help="How many processes may join.",
)
@options.mesh_command
def create_join_token(
    invocation: options.Invocation,
    agent_id: str,
    agent_type: str,
    namespace: str | None,
    capabilities: list[str],
    ttl: datetime.timedelta,
    max_uses: int,
) -> None:
    """Create a token by which a process joins as an agent, and print it. It is shown only once."""
    mesh = invocation.mesh
    answer = mesh.call(
        mesh.auth.CreateJoinToken,
        auth_service_pb2.CreateJoinTokenRequest(
            namespace=namespaces.for_agent(mesh, namespace, agent_id),
            agent_id=agent_id,
            type=words.type_value(agent_type),
            capabilities=capabilities,
            lifetime=options.duration(ttl),
            max_uses=max_uses,
        ),
    )
    if invocation.json:
        output.write_json(answer)
        return
    click.echo(answer.join_token)
    output.note(f"Good until {output.clock_of(answer.expire_time)}; hand it over as AGENTMESH_JOIN_TOKEN.")


@token.command("keys")
@options.mesh_command
def list_keys(invocation: options.Invocation) -> None:
    """List the public keys that sign tokens."""
    mesh = invocation.mesh
    answer = mesh.call(mesh.auth.ListKeys, auth_service_pb2.ListKeysRequest())
    if invocation.json:
        output.write_json(answer)
    else:
        output.write_table(
            _KEY_HEADERS,
            [(key.key_id, output.clock_of(key.create_time), key.public_key.hex()) for key in answer.keys],
        )


def _token_value(argument: str) -> str:
    if argument != "-":
        return argument
    value = sys.stdin.read(64 * 1024).strip()
    if not value:  # without one the call would be about the caller's own
        raise usage("standard input holds no token", "pipe one in, or name it: TOKEN")
    return value


def _fields(answer: auth_service_pb2.IntrospectTokenResponse) -> Iterator[tuple[str, str]]:
    yield "Active", "yes" if answer.active else f"no: {answer.inactive_reason}"
    yield "Subject", answer.subject
    yield "Namespace", answer.namespace
    yield "Type", words.type_word(answer.type) if answer.type else ""
    yield "Capabilities", ", ".join(answer.capabilities)
    yield "Scope", ", ".join(answer.scope)
    if answer.subject:
        yield "May", rights.text(words.type_word(answer.type) if answer.type else "", answer.scope)
    yield "Family", answer.family
    yield "Issued", output.clock_of(answer.issue_time)
    yield "Ends", output.clock_of(answer.expire_time)
