"""Takes credentials away, for `agent revoke` and `token revoke`."""

from __future__ import annotations

import contextlib

import click

from agentmesh.v1 import auth_service_pb2, registry_service_pb2
from meshctl import namespaces, output
from meshctl.options import Invocation
from meshctl.problems import Problem


def revoke(invocation: Invocation, request: auth_service_pb2.RevokeTokenRequest) -> None:
    """Sends the request and says what came of it. When it returns, the credential is refused everywhere."""
    mesh = invocation.mesh
    answer = mesh.call(mesh.auth.RevokeToken, request)
    if invocation.json:
        output.write_json(answer)
        return
    kind = request.WhichOneof("target")
    what = {"token": "the token and its family", "family": f"family {request.family}"}.get(
        kind or "", f"{'operator' if request.namespace == namespaces.SYSTEM else 'agent'} {request.agent_id}"
    )
    click.echo(f"Revoked {what}; open streams that end within 1 s: {answer.streams_ended}")
    if request.agent_id:
        _say_if_nobody_knows(invocation, request)


def _say_if_nobody_knows(invocation: Invocation, request: auth_service_pb2.RevokeTokenRequest) -> None:
    """Tokens are issued to operators and agents of which the mesh keeps no list, so a misspelt name is no error."""
    if request.namespace == namespaces.SYSTEM:
        output.note(
            "The mesh keeps no list of operators: check the spelling with  "
            f"meshctl audit list --subject operator:{request.agent_id}"
        )
        return
    mesh = invocation.mesh
    reading = registry_service_pb2.GetAgentRequest(namespace=request.namespace, agent_id=request.agent_id)
    with contextlib.suppress(Problem):  # the revocation is done, whoever may read agents
        if mesh.find(mesh.registry.GetAgent, reading) is None:
            output.note(
                f"No agent {request.agent_id} has registered or was declared there: unless it has only tokens, "
                "check the spelling with  meshctl agent list"
            )
