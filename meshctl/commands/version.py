"""`meshctl version`: the versions of both ends."""

from __future__ import annotations

import importlib.metadata

import click

from agentmesh.v1 import registry_service_pb2
from meshctl import options, output


@click.command()
@options.namespace_option("Namespace to ask in. Default: the caller's.")
@options.mesh_command
def version(invocation: options.Invocation, namespace: str | None) -> None:
    """Show the versions of meshctl and meshd. `meshctl --version` asks nobody."""
    own = importlib.metadata.version("agentmesh-controlplane")
    if not invocation.json:
        click.echo(f"meshctl {own}")
    mesh = invocation.mesh
    request = registry_service_pb2.GetMeshStatusRequest(namespace=namespace or "")
    theirs = mesh.call(mesh.registry.GetMeshStatus, request).version
    if invocation.json:
        output.write_json({"meshctl": own, "meshd": theirs, "address": mesh.target.address})
    else:
        click.echo(f"meshd {theirs} at {mesh.target.address}")
