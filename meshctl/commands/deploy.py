"""`meshctl deploy`: makes an agent known and hands its process what it needs to join.

Standard output is only `export NAME=value` lines (or one JSON object), so that
`eval "$(meshctl deploy …)"` works; explanations go to standard error.
"""

from __future__ import annotations

import datetime
import os
import shlex
from typing import Any

import click

from agentmesh.v1 import agent_pb2, auth_service_pb2, namespace_service_pb2, registry_service_pb2
from meshctl import deploying, namespaces, options, output, rows, supervision, words
from meshctl.mesh import Mesh
from meshctl.problems import usage


@click.command()
@click.option("--agent-id", metavar="ID", required=True, help="Id of the agent, unique in its namespace.")
@click.option("--agent-name", metavar="NAME", default="", help="Name for people.")
@options.agent_type_option(required=True, help_text="Role of the agent, which decides what it may do.")
@options.namespace_option("Namespace of the agent; created when missing. Default: default, or the token's.")
@options.capabilities_option("Skills, separated by commas.")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port on which other agents reach it.")
@click.option(
    "--host", metavar="HOST", help="Host on which other agents reach it. Default with --port: localhost."
)
@options.labels_option("Label of the agent; may be given more than once.")
@click.option(
    "--slots",
    type=click.IntRange(0, 10_000),
    help="Tasks it runs at once until its process says otherwise. Default: 1 for workers, else 0.",
)
@options.duration_option(
    "--join-ttl",
    "How long the printed join token is good, at most 24h.",
    default="10m",
    show_default=True,
)
@click.argument("command", metavar="[-- COMMAND ARGS...]", nargs=-1, type=click.UNPROCESSED)
@options.mesh_command
def deploy(
    invocation: options.Invocation,
    namespace: str | None,
    join_ttl: datetime.timedelta,
    command: tuple[str, ...],
    **spec: Any,
) -> int | None:
    """Make an agent known and print the environment for its process.

    The namespace is created when it is missing. Start the process with the printed environment, as in

    \b
      eval "$(meshctl deploy --agent-id worker-1 --agent-type worker --capabilities report)"

    or name it after "--": then it runs here with that environment, is started again when it crashes, and is
    stopped by Ctrl-C.
    """  # noqa: D301 - click needs the control character itself
    mesh = invocation.mesh
    name = namespaces.for_agent(mesh, namespace, spec["agent_id"]) or (
        mesh.caller.namespace if mesh.caller else ""
    )
    namespace_created = _create_if_missing(mesh, name)
    asked = _agent_spec(**spec)
    reading = registry_service_pb2.GetAgentRequest(namespace=name, agent_id=asked.agent_id)
    before = None if namespace_created else mesh.find(mesh.registry.GetAgent, reading)
    request = registry_service_pb2.DeclareAgentRequest(namespace=name, spec=asked)
    declared = mesh.call(mesh.registry.DeclareAgent, request)
    agent = declared.agent
    if agent.session_id and (other := deploying.differences(agent.spec, asked, spec["slots"])):
        raise usage(
            f"{asked.agent_id} runs{f' in {name}' if name else ''} with {', '.join(other)}; that stays until it stops",
            "stop it, then deploy again",
        )
    changed = before is not None and before.agent.spec != agent.spec
    joining = mesh.call(
        mesh.auth.CreateJoinToken,
        auth_service_pb2.CreateJoinTokenRequest(
            namespace=name,
            agent_id=agent.spec.agent_id,
            type=agent.spec.type,
            capabilities=agent.spec.capabilities,
            lifetime=options.duration(join_ttl),
        ),
    )
    environment = _environment(mesh, name, agent.spec, spec["slots"], joining.join_token)
    output.note(_explanation(agent, name, declared.created, changed, namespace_created))
    if mesh.caller is not None:
        output.note(
            f"It is let in by {mesh.caller.subject}: if that is revoked, so is it. Deploy from the operator socket what "
            "should outlive a person's access."
        )
    if invocation.json:
        output.write_json(
            {
                "agent": output.as_dict(agent),
                "agent_created": declared.created,
                "agent_changed": changed,
                "namespace_created": namespace_created,
                "environment": environment,
                "join_token_expire_time": joining.expire_time.ToJsonString(),
            }
        )
    if command:
        mesh.close()
        # The caller's own token is not the agent's.
        inherited = {name: value for name, value in os.environ.items() if name != "AGENTMESH_TOKEN"}
        return supervision.run(command, {**inherited, **environment})
    if not invocation.json:
        for key, value in environment.items():
            click.echo(f"export {key}={shlex.quote(value)}")
        ttl = output.length_of(join_ttl.total_seconds())
        output.note(
            f"\nStart its process in a shell with these variables within {ttl} "
            "(the join token works once), or let meshctl run it:\n"
            f"  {deploying.command_of(agent)} -- COMMAND"
        )
        if mesh.target.is_loopback:
            output.note(
                f"{mesh.target.address} is reached from this host alone; for an agent on another:  "
                "meshctl login --address HOST:PORT --ca FILE  and deploy again"
            )
    return None


def _create_if_missing(mesh: Mesh, name: str) -> bool:
    """Asks first: an agent that may declare agents need not be allowed to create namespaces."""
    if (
        mesh.find(mesh.namespaces.GetNamespace, namespace_service_pb2.GetNamespaceRequest(name=name))
        is not None
    ):
        return False
    request = namespace_service_pb2.CreateNamespaceRequest(name=name)
    return mesh.call(mesh.namespaces.CreateNamespace, request).created


def _agent_spec(
    *,
    agent_id: str,
    agent_name: str,
    agent_type: str,
    capabilities: list[str],
    port: int | None,
    host: str | None,
    labels: dict[str, str],
    slots: int | None,
) -> agent_pb2.AgentSpec:
    endpoint = None
    if port or host:
        endpoint = agent_pb2.Endpoint(host=host or "localhost", port=port or 0)
    kind = words.type_value(agent_type)
    return agent_pb2.AgentSpec(
        agent_id=agent_id,
        name=agent_name,
        type=kind,
        capabilities=capabilities,
        labels=labels,
        endpoint=endpoint,
        slots=slots if slots is not None else deploying.default_slots(kind),
    )


def _environment(
    mesh: Mesh, namespace: str, spec: agent_pb2.AgentSpec, slots: int | None, join_token: str
) -> dict[str, str]:
    environment = {
        "AGENTMESH_ADDRESS": mesh.target.address,
        "AGENTMESH_NAMESPACE": namespace,
        "AGENTMESH_AGENT_ID": spec.agent_id,
        "AGENTMESH_AGENT_TYPE": words.type_word(spec.type),
        "AGENTMESH_CAPABILITIES": ",".join(spec.capabilities),
        "AGENTMESH_JOIN_TOKEN": join_token,
    }
    if slots is not None:
        environment["AGENTMESH_SLOTS"] = str(slots)
    if mesh.target.ca is not None:
        environment["AGENTMESH_CA"] = str(mesh.target.ca.resolve())
    if mesh.target.insecure:
        environment["AGENTMESH_INSECURE"] = "1"
    return environment


def _explanation(
    agent: agent_pb2.Agent, namespace: str, created: bool, changed: bool, namespace_created: bool
) -> str:
    lines = [f"Created namespace {namespace}."] if namespace_created else []
    kind = words.type_word(agent.spec.type)
    known = "Declared" if created else "Changed" if changed else "Already declared:"
    where = rows.endpoint_text(agent.spec.endpoint)
    lines.append(
        f"{known} {kind} {agent.spec.agent_id} in {namespace}{f', reached at {where}' if where else ''}."
    )
    return "\n".join(lines)
