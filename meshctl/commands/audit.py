"""`meshctl audit`: reads the audit log."""

from __future__ import annotations

import datetime
import difflib

import click

from agentmesh.v1 import auth_service_pb2, namespace_service_pb2, registry_service_pb2, scheduler_service_pb2
from meshctl import options, output
from meshctl.mesh import PAGE_SIZE

_HEADERS = (
    "TIME",
    "NAMESPACE",
    "SEQUENCE",
    "SUBJECT",
    "PEER",
    "METHOD",
    "OBJECT",
    "ALLOWED",
    "COUNT",
    "REASON",
)


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
@options.duration_option("--since", "Only what happened at most so long ago, such as 2h.")
@options.duration_option("--until", "Only what happened at least so long ago.")
@options.limit_option(100)
@options.mesh_command
def list_events(
    invocation: options.Invocation,
    namespace: str | None,
    subject: str,
    method: str,
    denied: bool,
    since: datetime.timedelta | None,
    until: datetime.timedelta | None,
    limit: int,
) -> None:
    """List audit records, newest first."""
    mesh = invocation.mesh
    now = datetime.datetime.now(datetime.UTC)

    def request(page_token: str) -> auth_service_pb2.ListAuditEventsRequest:
        return auth_service_pb2.ListAuditEventsRequest(
            namespace=namespace or "",
            subject=subject,
            method=method,
            denied_only=denied,
            page_size=PAGE_SIZE if until else min(limit, PAGE_SIZE),
            page_token=page_token,
        )

    found: list[auth_service_pb2.AuditEvent] = []
    more = False
    for event in (event for page in mesh.pages(mesh.auth.ListAuditEvents, request) for event in page.events):
        age = now - output.moment(event.time)
        more = len(found) == limit
        if more or (since is not None and age > since):
            break
        if until is None or age >= until:
            found.append(event)
    if invocation.json:
        output.write_json({"events": [output.as_dict(event) for event in found], "more": more})
    elif found:
        output.write_table(_HEADERS, [_row(event) for event in found])
    else:
        output.note("No audit records match." + _about_method(method))
    if more:
        output.note_more(len(found))


def _about_method(method: str) -> str:
    """A misspelt method has no records either."""
    files = (auth_service_pb2, namespace_service_pb2, registry_service_pb2, scheduler_service_pb2)
    known = [
        each.name
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for each in service.methods
    ]
    if not method or method in known:
        return ""
    near = difflib.get_close_matches(method, known, n=3, cutoff=0.5)
    return f" No method is called {method}" + (f"; did you mean {' or '.join(near)}?" if near else ".")


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
        event.reason if event.allowed else "",
    )
