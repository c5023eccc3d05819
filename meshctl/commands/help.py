"""`meshctl help`: the help of any command, and topics that belong to no single one."""

from __future__ import annotations

from collections.abc import Iterable

import click

from meshctl.problems import EXIT_CODE_MEANINGS

_ENVIRONMENT = (
    ("AGENTMESH_ADDRESS", "where meshd is: unix:/path or host:port"),
    ("AGENTMESH_CA", "PEM file with the authority of meshd's certificate; turns TLS on"),
    ("AGENTMESH_INSECURE", "1 allows a connection without TLS to another host"),
    ("AGENTMESH_TOKEN", "token to call with; not needed on the operator socket"),
    ("AGENTMESH_NAMESPACE", "what --namespace says when it is not given"),
    ("NO_COLOR", "any value turns colours off"),
)
_TOPICS = ("exit-codes", "environment")


@click.command("help")
@click.argument("words", metavar="[TOPIC|COMMAND...]", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Explain a command or a topic: exit-codes, environment."""
    if words == ("exit-codes",):
        _write("Exit codes", [(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()])
    elif words == ("environment",):
        _write("Environment variables", _ENVIRONMENT)
    else:
        click.echo(_help_of(ctx, words))


def _help_of(ctx: click.Context, words: tuple[str, ...]) -> str:
    here = ctx.find_root()
    for word in words:
        group = here.command
        found = group.get_command(here, word) if isinstance(group, click.Group) else None
        if found is None:
            ctx.fail(f"No help for {' '.join(words)!r}. Topics: {', '.join(_TOPICS)}.")
        here = click.Context(found, info_name=word, parent=here)
    return here.get_help()


def _write(title: str, entries: Iterable[tuple[str, str]]) -> None:
    formatter = click.HelpFormatter(max_width=100)
    with formatter.section(title):
        formatter.write_dl(list(entries))
    click.echo(formatter.getvalue().rstrip())
