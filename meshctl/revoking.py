"""Takes credentials away, for `agent revoke` and `token revoke`."""

from __future__ import annotations

import contextlib

import click

from agentmesh.v1 import auth_service_pb2, registry_service_pb2
from meshctl import namespaces, output
from meshctl.options import Invocation
from meshctl.problems import ExitCode, Problem


def revoke(invocation: Invocation, request: auth_service_pb2.RevokeTokenRequest) -> None:
    """Sends the request and says what came of it. When it returns, the credential is refused everywhere.

    Raises Problem also when the mesh knows no agent of that id.
    """
    mesh = invocation.mesh
    answer = mesh.call(mesh.auth.RevokeToken, request)
    kind = request.WhichOneof("target")
    what = {"token": "the token and its family", "family": f"family {request.family}"}.get(
        kind or "", f"{'operator' if request.namespace == namespaces.SYSTEM else 'agent'} {request.agent_id}"
    )
    if invocation.json:
        output.write_json(answer)
    else:
        click.echo(f"Revoked {what}; open streams that end within 1 s: {answer.streams_ended}")
    if request.namespace == namespaces.SYSTEM and request.agent_id and not invocation.json:
        output.note(
            "Agents and operators whom this one let in are refused as well: let them in anew with tokens of your own, "
            "for agents  meshctl deploy. The mesh keeps no list of operators: check the spelling with  "
            f"meshctl audit list --subject operator:{request.agent_id}"
        )
    elif request.agent_id and not answer.streams_ended:
        _fail_if_nobody_knows(invocation, request)


def _fail_if_nobody_knows(invocation: Invocation, request: auth_service_pb2.RevokeTokenRequest) -> None:
    """Whoever revokes waits for somebody to be locked out: a misspelt id must not pass for that."""
    mesh = invocation.mesh
    reading = registry_service_pb2.GetAgentRequest(namespace=request.namespace, agent_id=request.agent_id)
    known = True
    with contextlib.suppress(Problem):  # the revocation is done, whoever may read agents
        known = mesh.find(mesh.registry.GetAgent, reading) is not None
    if not known:
        raise Problem(
            f"no agent {request.agent_id} has registered or was declared in {request.namespace}; "
            "tokens issued to that id, if there are any, are refused from now on",
            "check the spelling with  meshctl agent list",
            ExitCode.NOT_FOUND,
        )
