"""`meshctl audit`: reads the audit log."""

from __future__ import annotations

import click

from agentmesh.v1 import auth_service_pb2
from meshctl import options, output
from meshctl.mesh import PAGE_SIZE

_HEADERS = ("TIME", "NAMESPACE", "SEQUENCE", "SUBJECT", "PEER", "METHOD", "OBJECT", "ALLOWED", "COUNT")


@click.group()
def audit() -> None:
    """Read the audit log."""


@audit.command("list")
@options.namespace_option(
    "Only this namespace; _mesh is the mesh's own. Default: every one the caller may read."
)
@click.option(
    "--subject", metavar="SUBJECT", default="", help="Only this caller, such as agent:production/worker-1."
)
@click.option("--method", metavar="METHOD", default="", help="Only this method, such as SubmitTask.")
@click.option("--denied", is_flag=True, help="Only refusals.")
@options.limit_option(100)
@options.mesh_command
def list_events(
    invocation: options.Invocation, namespace: str | None, subject: str, method: str, denied: bool, limit: int
) -> None:
    """List audit records, newest first."""
    mesh = invocation.mesh

    def request(page_token: str) -> auth_service_pb2.ListAuditEventsRequest:
        return auth_service_pb2.ListAuditEventsRequest(
            namespace=namespace or "",
            subject=subject,
            method=method,
            denied_only=denied,
            page_size=min(limit, PAGE_SIZE),
            page_token=page_token,
        )

    found, more = mesh.first(mesh.auth.ListAuditEvents, request, lambda page: page.events, limit)
    if invocation.json:
        output.write_json({"events": [output.as_dict(event) for event in found], "more": more})
    elif found:
        output.write_table(_HEADERS, [_row(event) for event in found])
    else:
        output.note("No audit records match.")
    if more:
        output.note_more(len(found))


def _row(event: auth_service_pb2.AuditEvent) -> tuple[str, ...]:
    return (
        output.clock_of(event.time),
        event.namespace,
        str(event.sequence),
        event.subject,
        event.peer,
        event.method,
        event.object,
        ("yes" if event.allowed else "no") + (f": {event.reason}" if event.reason else ""),
        str(event.count),
    )
