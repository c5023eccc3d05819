"""`meshctl discover`: finds agents by what they are, can do and have free."""

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
@click.option(
    "--any-capability",
    "--any-capabilities",
    "any_capabilities",
    metavar="LIST",
    multiple=True,
    callback=options.split,
    help="Only agents with at least one of these skills, separated by commas.",
)
@click.option(
    "--label",
    "label_texts",
    metavar="CONDITION",
    multiple=True,
    callback=options.checked_conditions,
    help="Only agents whose labels meet this: zone=a,b or zone!=a or gpu or '!gpu' or 'memory>16'; may be given "
    "more than once.",
)
@click.option(
    "--min-free",
    metavar="SLOTS",
    type=click.IntRange(0, 10_000),
    default=0,
    help="Only agents with so many slots free.",
)
@click.option(
    "--prefix",
    metavar="TEXT",
    default="",
    help="Only agents whose id or name begins with this, whatever the case.",
)
@options.health_option("Only agents of this health; may be given more than once.")
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.mesh_command
def discover(
    invocation: options.Invocation,
    namespace: str | None,
    agent_type: str | None,
    capabilities: list[str],
    any_capabilities: list[str],
    label_texts: Sequence[str],
    min_free: int,
    prefix: str,
    health: Sequence[str],
) -> None:
    """Find agents by type, skills, labels, free slots and health."""
    agents = list_agents(
        invocation.mesh,
        namespace,
        agent_type,
        capabilities,
        health,
        any_capabilities=any_capabilities,
        label_texts=label_texts,
        min_free_slots=min_free,
        text_prefix=prefix,
    )
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
