"""`meshctl profile`: lists, shows, chooses and removes what `meshctl login` stored. Tokens are never printed."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from meshctl import options, profiles

if TYPE_CHECKING:
    from meshctl.profiles import Profile

_HEADERS = ("PROFILE", "IN USE", "ADDRESS", "SUBJECT", "TOKEN")


@click.group()
def profile() -> None:
    """List, show, use and remove the profiles that `meshctl login` stored."""


@profile.command("list")
@options.mesh_command
def list_profiles(invocation: options.Invocation) -> None:
    """List the profiles."""
    from meshctl import output

    known = profiles.load()
    if invocation.json:
        fields = {name: profiles.public_fields(each) for name, each in sorted(known.by_name.items())}
        output.write_json({"active": known.active, "profiles": fields})
    elif known.by_name:
        rows = [
            (name, "yes" if name == known.active else "", each.address, each.subject, _token_words(each))
            for name, each in sorted(known.by_name.items())
        ]
        output.write_table(_HEADERS, rows)
    else:
        output.note("No profiles. Store one: meshctl login --address HOST:PORT --ca FILE")


@profile.command("use")
@click.argument("name")
@options.mesh_command
def use_profile(invocation: options.Invocation, name: str) -> None:
    """Use a profile wherever neither an option nor the environment says another address."""
    from meshctl import output

    profiles.load().named(name)  # nothing is made for one that is not there
    with profiles.changing() as known:
        known.named(name)
        known.active = name
    if invocation.json:
        output.write_json({"active": name})
    else:
        click.echo(f"Profile {name} is in use.")


@profile.command("show")
@click.argument("name", default="")
@options.mesh_command
def show_profile(invocation: options.Invocation, name: str) -> None:
    """Show a profile. Default: the one in use."""
    from meshctl import output

    known = profiles.load()
    chosen = name or known.active or profiles.DEFAULT_NAME
    each = known.named(chosen)
    if invocation.json:
        output.write_json({"profile": chosen, **profiles.public_fields(each)})
        return
    output.write_fields(
        (
            ("Profile", f"{chosen}, in use" if chosen == known.active else chosen),
            ("Address", each.address),
            ("CA", each.ca),
            ("Insecure", "yes: without TLS even to another host" if each.insecure else ""),
            ("Subject", each.subject),
            ("Token", _token_words(each)),
            ("File", str(profiles.file_path())),
        )
    )


@profile.command("remove")
@click.argument("name")
@options.mesh_command
def remove_profile(invocation: options.Invocation, name: str) -> None:
    """Remove a profile with its token."""
    from meshctl import output

    profiles.load().named(name)  # nothing is made for one that is not there
    with profiles.changing() as known:
        known.named(name)
        del known.by_name[name]
        if known.active == name:
            known.active = ""
    if invocation.json:
        output.write_json({"removed": name})
    else:
        click.echo(f"Removed profile {name}.")


def _token_words(each: Profile) -> str:
    from meshctl import output

    if not each.token:
        return "none"
    if each.expire_time is None:
        return "stored"
    left_s = (each.expire_time - datetime.datetime.now(datetime.UTC)).total_seconds()
    return (
        f"good for {output.length_of(left_s)}" if left_s > 0 else f"expired {output.length_of(-left_s)} ago"
    )
