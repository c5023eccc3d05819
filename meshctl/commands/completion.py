"""`meshctl completion`: the completion script for a shell."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash  eval "$(meshctl completion bash)"  in ~/.bashrc
    zsh   eval "$(meshctl completion zsh)"  in ~/.zshrc, after compinit
    fish  meshctl completion fish > ~/.config/fish/completions/meshctl.fish
    """  # noqa: D301 - click needs the control character itself
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "meshctl", "_MESHCTL_COMPLETE").source())
