"""Every command with its arguments and options, for the reference page and its test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from meshctl.app import PROGRAM, cli


class CommandReference(NamedTuple):
    """One command as a reader of the reference needs it."""

    path: str
    help: str
    arguments: tuple[str, ...]
    #: Long and short spellings of each option, hidden ones left out.
    options: tuple[tuple[str, ...], ...]


def every_command() -> Iterator[CommandReference]:
    """Yields the root and every command below it, in the order of `--help`."""
    yield from _below(cli, click.Context(cli, info_name=PROGRAM))


def _below(command: click.Command, ctx: click.Context) -> Iterator[CommandReference]:
    shown = command.get_params(ctx)
    yield CommandReference(
        path=ctx.command_path,
        help=command.help or "",
        arguments=tuple(item.make_metavar(ctx) for item in shown if isinstance(item, click.Argument)),
        options=tuple(
            tuple(item.opts) for item in shown if isinstance(item, click.Option) and not item.hidden
        ),
    )
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from _below(child, click.Context(child, info_name=name, parent=ctx))
