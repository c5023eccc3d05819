"""`meshctl login` and `logout`: keep a token for a mesh in a profile, or forget it."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING

import click

from meshctl import options, profiles, reaching
from meshctl.problems import usage

if TYPE_CHECKING:
    from agentmesh.connection import Target
    from meshctl.profiles import Profile, Profiles


@click.command()
@options.mesh_command
def login(invocation: options.Invocation) -> None:
    """Log in to a mesh: check a token there and keep it in a profile.

    The token is asked for, or read from standard input, or given as --token @FILE. The address and --ca are kept
    with it, so that the next login needs neither. The profile is the one named by --profile, else the one in use,
    else `default`; it is in use from then on.
    """
    from meshctl import output
    from meshctl.mesh import Mesh
    from meshctl.reaching import Reach

    known = profiles.load()
    name = profiles.checked_name(_name(invocation, known) or profiles.DEFAULT_NAME)
    target = _target(invocation, known.by_name.get(name))
    token = _token(invocation.connection["token"])
    caller = invocation.use(Mesh(Reach(target, "login", token, "login"))).caller
    assert caller is not None
    profile = profiles.Profile(
        address=target.address,
        ca=str(target.ca.absolute()) if target.ca else "",
        insecure=target.insecure,
        token=token,
        subject=caller.subject,
        expire_time=output.moment(caller.expire_time),
    )
    with profiles.changing() as known:  # as they are now: the token may have taken a while to be typed
        known.by_name[name], known.active = profile, name
    if invocation.json:
        output.write_json({"profile": name, **profiles.public_fields(profile)})
        return
    click.echo(
        f"Logged in to {target.address} as {caller.subject} until {output.clock_of(caller.expire_time)}; "
        f"profile {name} is in use."
    )


@click.command()
@options.mesh_command
def logout(invocation: options.Invocation) -> None:
    """Forget the token of a profile; its address stays for the next login."""
    from meshctl import output

    stored = profiles.load()
    name = _name(invocation, stored)
    if not name:
        raise usage("nobody is logged in", "see what is stored: meshctl profile list")
    stored.named(name)  # nothing is made for one that is not there
    with profiles.changing() as known:
        profile = known.named(name)
        known.by_name[name] = dataclasses.replace(profile, token="", subject="", expire_time=None)
    if invocation.json:
        output.write_json({"profile": name, "forgotten": bool(profile.token)})
        return
    click.echo(
        f"Profile {name} holds no token any more." if profile.token else f"Profile {name} held no token."
    )
    if profile.token:
        operator = profile.subject.removeprefix("operator:")
        what = f"--subject {operator}" if operator != profile.subject else "TOKEN"
        output.note(f"Where it was copied, it is still good: take it away with  meshctl token revoke {what}")


def _name(invocation: options.Invocation, known: Profiles) -> str:
    return invocation.connection["profile"] or os.environ.get("AGENTMESH_PROFILE") or known.active


def _target(invocation: options.Invocation, old: Profile | None) -> Target:
    """Returns where to log in: flags and environment, and what they leave open as it was at the login before."""
    chosen = {
        "address": invocation.connection["address"] or os.environ.get("AGENTMESH_ADDRESS"),
        "ca": invocation.connection["ca"] or os.environ.get("AGENTMESH_CA"),
        "insecure": invocation.connection["insecure"],
    }
    if not chosen["address"]:
        if old is None:
            raise usage(
                "no address to log in to", "meshctl login --address HOST:PORT --ca FILE   or --profile NAME"
            )
        chosen["address"] = old.address
        chosen["ca"] = chosen["ca"] or old.ca
        chosen["insecure"] = chosen["insecure"] or old.insecure or None
    return reaching.target_of(chosen)


def _token(given: str | None) -> str:
    if given and given != "-":
        return reaching.read_token(given, "--token")
    if not given and _is_terminal():
        return reaching.read_token(click.prompt("Token", hide_input=True, err=True), "the prompt")
    return reaching.read_token(sys.stdin.read(reaching.MAX_TOKEN_BYTES + 1), "standard input")


def _is_terminal() -> bool:
    return sys.stdin.isatty()
