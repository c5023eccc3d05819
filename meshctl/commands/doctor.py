"""`meshctl doctor`: looks at everything between this command and a mesh at work, with a next step per finding."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from agentmesh.v1 import registry_service_pb2
from meshctl import local_checks, mesh_checks, options, output, reaching
from meshctl.agents import list_agents
from meshctl.checks import Check, ok, skipped, wrong
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem
from meshctl.safe_text import printable

if TYPE_CHECKING:
    from meshctl.reaching import Reach

_DENIED = "ACCESS_DENIED"


@click.command()
@options.mesh_command
def doctor(invocation: options.Invocation) -> int:
    """Check everything from here to a mesh at work; name a next step for each finding.

    Works without a meshd too: it then says what it found on this host. Exit code 0: nothing is wrong; 1: findings.
    """
    checks = list(_checks(invocation))
    findings = [check for check in checks if check.state == "wrong"]
    if invocation.json:
        output.write_json({"findings": len(findings), "checks": [check._asdict() for check in checks]})
    else:
        _write(checks)
        click.echo()
        click.echo(f"{len(findings)} findings" if len(findings) != 1 else "1 finding")
    return ExitCode.TASK_FAILED if findings else ExitCode.DONE


def _checks(invocation: options.Invocation) -> Iterator[Check]:
    yield local_checks.profile_file()
    try:
        reach = reaching.find(invocation.connection)
    except Problem as problem:
        yield wrong("address", problem.what, problem.next_step)
        return
    yield ok("address", f"{reach.target.address}, by: {reach.rule}")
    rights, connection = local_checks.socket_rights(reach.target), local_checks.connects(reach.target)
    yield rights
    if rights.state == "wrong" and connection.state == "wrong":
        connection = skipped("connection", "the socket is of no use")
    yield connection
    if connection.state != "ok":
        yield from _skipped("nothing listens there", "tls", "token", "mesh", *mesh_checks.NAMES)
        return
    certificate, usable = local_checks.certificate(reach.target)
    yield certificate
    if not usable:
        yield from _skipped("no call goes over such a connection", "token", "mesh", *mesh_checks.NAMES)
        return
    yield from _of_mesh(invocation, reach)


def _of_mesh(invocation: options.Invocation, reach: Reach) -> Iterator[Check]:
    mesh = invocation.use(Mesh(reach))
    token, refused = _token(mesh, reach)
    yield token
    if refused:
        yield from _skipped("the token is not accepted", "mesh", *mesh_checks.NAMES)
        return
    ask_s = time.time()
    try:
        status = mesh.call(mesh.registry.GetMeshStatus, registry_service_pb2.GetMeshStatusRequest())
    except Problem as problem:
        if problem.reason == _DENIED:
            yield skipped("mesh", f"{problem.what}: an operator is told more")
        else:
            yield wrong("mesh", problem.what, problem.next_step)
        yield from _skipped("meshd did not tell", *mesh_checks.NAMES)
        return
    answer_s = time.time()
    own_version = importlib.metadata.version("agentmesh-controlplane")
    yield ok("mesh", f"meshd answers, up {output.age_of(status.start_time)}")
    lost = []
    if mesh_checks.is_any_lost(status):
        with contextlib.suppress(Problem):  # whoever may read agents; without them all count as missed
            lost = list_agents(mesh, health=["lost"])
    yield from mesh_checks.of_status(status, own_version, ask_s, answer_s, lost)


def _token(mesh: Mesh, reach: Reach) -> tuple[Check, bool]:
    """Returns the check of the token, and whether calls are refused for it."""
    if not reach.token and not reach.target.is_socket:
        return wrong("token", f"none, and {reach.target.address} needs one", "meshctl login"), True
    try:
        caller = mesh.caller
    except Problem as problem:
        return wrong("token", problem.what, problem.next_step), True
    return mesh_checks.of_token(caller, reach.token_rule, datetime.datetime.now(datetime.UTC)), False


def _skipped(why: str, *names: str) -> Iterator[Check]:
    for name in names:
        yield skipped(name, why)


def _write(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        click.echo(f"{check.state:<7}  {check.name:<{width}}  {printable(check.result)}")
        if check.next_step:
            click.echo(f"{'':7}  {'':{width}}  next: {printable(check.next_step)}")
