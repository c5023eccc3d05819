"""`meshctl events`: a line for every change of agents and tasks."""

from __future__ import annotations

import click

from meshctl import news, options
from meshctl.problems import ExitCode


@click.command()
@options.namespace_option("Only this namespace. Default: every namespace the caller may read.")
@options.mesh_command
def events(invocation: options.Invocation, namespace: str | None) -> ExitCode:
    """Write a line for every change of agents and tasks, from now until Ctrl-C."""
    mesh = invocation.mesh
    names = [namespace] if namespace else mesh.namespace_names()
    return news.write(mesh, names, as_json=invocation.json, agents=True, tasks=True)
