"""The `meshctl deploy` command for an agent that is known, for hints that can be typed as they are."""

from __future__ import annotations

import shlex

from agentmesh.v1 import agent_pb2
from meshctl import words


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
    return shlex.join(arguments)
