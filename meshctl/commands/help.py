"""`meshctl help`: the help of any command, and topics that belong to no single one."""

from __future__ import annotations

from collections.abc import Iterable

import click

from meshctl.problems import EXIT_CODE_MEANINGS

_ENVIRONMENT = (
    ("AGENTMESH_PROFILE", "profile to use instead of the one that `meshctl profile use` chose"),
    ("AGENTMESH_ADDRESS", "where meshd is: unix:/path or host:port"),
    ("AGENTMESH_CA", "PEM file with the authority of meshd's certificate; turns TLS on"),
    ("AGENTMESH_INSECURE", "1 allows a connection without TLS to another host"),
    ("AGENTMESH_TOKEN", "token to call with; not needed on the operator socket"),
    ("AGENTMESH_NAMESPACE", "what --namespace says when it is not given"),
    ("XDG_CONFIG_HOME", "where agentmesh/profiles.toml is kept; default: ~/.config"),
    ("XDG_RUNTIME_DIR", "where agentmesh/meshd.sock is looked for"),
    ("NO_COLOR", "any value turns colours off"),
)
_CONNECTION = (
    ("1. options", "--address, or --profile NAME: what `meshctl login` stored under that name"),
    ("2. environment", "AGENTMESH_ADDRESS, else AGENTMESH_PROFILE"),
    ("3. profile", "the one in use: `meshctl login` and `meshctl profile use` choose it"),
    ("4. socket", "$XDG_RUNTIME_DIR/agentmesh/meshd.sock, then /run/meshd/meshd.sock; needs no token"),
    ("5. loopback", "127.0.0.1:7600"),
    (
        "token",
        "--token, else that of --profile, else AGENTMESH_TOKEN, else that of the profile which gave the address",
    ),
    (
        "authority",
        "likewise: --ca, AGENTMESH_CA, profile. A profile's token and CA serve its own address alone",
    ),
)
_TOPICS = ("exit-codes", "environment", "connection")


@click.command("help")
@click.argument("words", metavar="[TOPIC|COMMAND...]", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Explain a command or a topic: exit-codes, environment, connection."""
    if words == ("exit-codes",):
        _write("Exit codes", [(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()])
    elif words == ("environment",):
        _write("Environment variables", _ENVIRONMENT)
    elif words == ("connection",):
        _write("Where meshctl looks for meshd: the first that is there", _CONNECTION)
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
