"""Takes credentials away, for `agent revoke` and `token revoke`."""

from __future__ import annotations

import click

from agentmesh.v1 import auth_service_pb2
from meshctl import namespaces, output
from meshctl.options import Invocation


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
