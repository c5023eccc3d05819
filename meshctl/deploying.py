"""What `meshctl deploy` asks for against what an agent is, and the command for one that is known, ready to be typed."""

from __future__ import annotations

import shlex

from agentmesh.v1 import agent_pb2
from meshctl import rows, words


def command_of(agent: agent_pb2.Agent) -> str:
    """Returns the command that declares an agent as it is, ready to be typed."""
    spec = agent.spec
    arguments = ["meshctl", "deploy", "--agent-id", spec.agent_id, "--agent-type", words.type_word(spec.type)]
    arguments += ["--namespace", agent.namespace]
    if spec.name:
        arguments += ["--agent-name", spec.name]
    if spec.capabilities:
        arguments += ["--capabilities", ",".join(spec.capabilities)]
    if spec.endpoint.port:
        arguments += ["--port", str(spec.endpoint.port)]
    if spec.endpoint.host and spec.endpoint.host != "localhost":
        arguments += ["--host", spec.endpoint.host]
    for key, value in sorted(spec.labels.items()):
        arguments += ["--label", f"{key}={value}"]
    if spec.slots != default_slots(spec.type):
        arguments += ["--slots", str(spec.slots)]
    return shlex.join(arguments)


def default_slots(agent_type: agent_pb2.AgentType.ValueType) -> int:
    """Returns how many tasks an agent runs at once when nobody says so."""
    return int(agent_type == agent_pb2.AGENT_TYPE_WORKER)


def differences(running: agent_pb2.AgentSpec, asked: agent_pb2.AgentSpec, slots: int | None) -> list[str]:
    """Returns what a running agent is, where something else was asked for; what was left open is no difference."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(running.labels.items()))
    where = rows.endpoint_text(running.endpoint)
    compared = (
        (running.type != asked.type, f"type {words.type_word(running.type)}"),
        (asked.name and running.name != asked.name, f"name {running.name!r}"),
        (
            asked.capabilities and set(running.capabilities) != set(asked.capabilities),
            f"capabilities {','.join(running.capabilities)}" if running.capabilities else "no capabilities",
        ),
        (asked.labels and running.labels != asked.labels, f"labels {labels}" if labels else "no labels"),
        (
            asked.HasField("endpoint") and running.endpoint != asked.endpoint,
            f"endpoint {where}" if where else "no endpoint",
        ),
        (slots not in (None, running.slots), f"slots {running.slots}"),
    )
    return [text for differs, text in compared if differs]
