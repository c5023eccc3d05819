"""`meshctl namespace`: creates, shows and lists namespaces."""

from __future__ import annotations

import click

from agentmesh.v1 import namespace_service_pb2
from meshctl import options, output
from meshctl.mesh import PAGE_SIZE

_HEADERS = ("NAMESPACE", "AGE", "DESCRIPTION")


@click.group()
def namespace() -> None:
    """Create, get and list namespaces."""


@namespace.command("create")
@click.argument("name")
@click.option("--description", metavar="TEXT", default="", help="Words for people.")
@options.mesh_command
def create_namespace(invocation: options.Invocation, name: str, description: str) -> None:
    """Create a namespace. Creating it again with the same description changes nothing."""
    mesh = invocation.mesh
    request = namespace_service_pb2.CreateNamespaceRequest(name=name, description=description)
    answer = mesh.call(mesh.namespaces.CreateNamespace, request)
    if invocation.json:
        output.write_json(answer)
    else:
        click.echo(f"Created namespace {name}." if answer.created else f"Namespace {name} existed before.")


@namespace.command("get")
@click.argument("name")
@options.mesh_command
def get_namespace(invocation: options.Invocation, name: str) -> None:
    """Show one namespace."""
    mesh = invocation.mesh
    request = namespace_service_pb2.GetNamespaceRequest(name=name)
    found = mesh.call(mesh.namespaces.GetNamespace, request).namespace
    if invocation.json:
        output.write_json(found)
        return
    output.write_fields(
        (
            ("Namespace", found.name),
            ("Description", found.description),
            ("Created", output.clock_of(found.create_time)),
            ("Epoch", str(found.epoch)),
        )
    )


@namespace.command("list")
@options.mesh_command
def list_namespaces(invocation: options.Invocation) -> None:
    """List the namespaces the caller may read."""
    mesh = invocation.mesh

    def request(page_token: str) -> namespace_service_pb2.ListNamespacesRequest:
        return namespace_service_pb2.ListNamespacesRequest(page_size=PAGE_SIZE, page_token=page_token)

    found = [item for page in mesh.pages(mesh.namespaces.ListNamespaces, request) for item in page.namespaces]
    if invocation.json:
        output.write_json({"namespaces": [output.as_dict(item) for item in found]})
    else:
        output.write_table(
            _HEADERS, [(item.name, output.age_of(item.create_time), item.description) for item in found]
        )
