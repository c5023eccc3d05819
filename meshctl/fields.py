"""A field of a request under the name by which it was typed: as an option or argument of the command that runs."""

from __future__ import annotations

import click
from click.core import ParameterSource

from agentmesh import errors

# Where a parameter is not called like the last part of the field; the first that was typed is meant.
_PARAMETERS = {
    "agent_id": ("agent_id", "subject"),
    "capabilities": ("capabilities", "required", "task_type"),
    "hand_over_grace": ("grace",),
    "lifetime": ("ttl", "join_ttl"),
    "selector.agent_id_pattern": ("pattern",),
    "selector.labels": ("labels",),
    "spec.name": ("agent_name",),
    "spec.requirements.required_capabilities": ("required",),
    "spec.retry_policy.max_retries": ("retries",),
}


def as_typed(error: errors.MeshError) -> str:
    """Returns the words of an error; a field with which they begin is called as it was typed, if it was."""
    context = click.get_current_context(silent=True)
    field = error.fields[0].field if error.fields else ""
    if context is None or not error.message.startswith(f"{field} "):
        return str(error)
    for name in _PARAMETERS.get(field, (field.rpartition(".")[2],)):
        for parameter in context.command.params:
            if parameter.name == name and _was_typed(context, name):
                return _shown(parameter) + error.message.removeprefix(field)
    return str(error)


def _was_typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _shown(parameter: click.Parameter) -> str:
    return (
        max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name
    )
