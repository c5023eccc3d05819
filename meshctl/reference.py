"""Every command with its arguments and options, for docs/reference/commands.md and its test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from meshctl.app import PROGRAM, cli


class CommandReference(NamedTuple):
    """One command as a reader of the reference needs it."""

    path: str
    usage: str
    help: str
    #: Spelling with the value, and help, of each option; `--help` and hidden ones are left out.
    options: tuple[tuple[str, str], ...]


def every_command() -> Iterator[CommandReference]:
    """Yields the root and every command below it, in the order of `--help`."""
    yield from _below(cli, click.Context(cli, info_name=PROGRAM, **cli.context_settings))


def _below(command: click.Command, ctx: click.Context) -> Iterator[CommandReference]:
    # Its spelling is that of the context in which a command was first asked for help in this process.
    own_help = command.get_help_option(ctx)
    records = (
        item.get_help_record(ctx)
        for item in command.get_params(ctx)
        if isinstance(item, click.Option) and item is not own_help
    )
    yield CommandReference(
        path=ctx.command_path,
        usage=" ".join([ctx.command_path, *command.collect_usage_pieces(ctx)]),
        help=command.help or "",
        options=tuple(record for record in records if record is not None),
    )
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from _below(
                child, click.Context(child, info_name=name, parent=ctx, **child.context_settings)
            )
