"""How meshctl reaches a mesh: which address, and with whose token.

Rule: flag, then environment, then profile, then a socket of this host. A profile is one whole: its token and its
authority serve its own address and no other, so a token never goes to a mesh that it was not stored for. A profile
that --profile names counts as a flag.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agentmesh import connection, errors
from meshctl import profiles
from meshctl.problems import ExitCode, Problem, usage

MAX_TOKEN_BYTES = 8 * 1024


class Reach(NamedTuple):
    """An address of the mesh, why this one, and the token to call with."""

    target: connection.Target
    #: What chose the address, in words.
    rule: str
    #: Empty: none, which makes the caller the local operator on the socket.
    token: str
    #: What the token comes from, in words; empty without one.
    token_rule: str
    #: Name of the profile that the address comes from; empty when it comes from elsewhere.
    profile: str = ""

    def __repr__(self) -> str:
        return f"Reach({self.target.address}, {self.rule})"


def find(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Reach:
    """Returns how to reach the mesh by these connection options. Raises Problem."""
    name, profile, rule = _profile_for(options, environ)
    environment = (
        {key: environ.get(f"AGENTMESH_{key.upper()}") for key in ("address", "ca", "token")},
        "AGENTMESH_TOKEN",
    )
    stored = (dataclasses.asdict(profile) if profile else {}, f"profile {name}")
    order = [
        (options, "--token"),
        *((stored, environment) if options.get("profile") else (environment, stored)),
    ]

    def first(key: str) -> tuple[Any, str]:
        return next(((layer[key], words) for layer, words in order if layer.get(key)), (None, ""))

    target = target_of({key: first(key)[0] for key in ("address", "ca", "insecure")}, environ)
    text, source = first("token")
    return Reach(
        target,
        rule or ("a socket that exists on this host" if target.is_socket else "default: no socket was found"),
        read_token(text, source) if text else "",
        source,
        name,
    )


def target_of(chosen: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> connection.Target:
    """Returns the target for address, ca and insecure. Raises Problem when they cannot work."""
    quiet = {key: environ[key] for key in ("XDG_RUNTIME_DIR", "AGENTMESH_INSECURE") if key in environ}
    try:
        return connection.resolve_target(
            chosen.get("address"), chosen.get("ca"), chosen.get("insecure"), quiet
        )
    except errors.ConfigurationError as error:
        what, _, next_step = str(error).partition(": ")
        raise Problem(what, next_step or "meshctl help environment", ExitCode.USAGE) from None


def read_token(text: str, source: str) -> str:
    """Returns a token written as itself or as @FILE. Raises Problem when it cannot be one; never shows it."""
    if text.startswith("@"):
        source, path = text, Path(text[1:]).expanduser()
        try:
            with path.open("rb") as file:
                text = file.read(MAX_TOKEN_BYTES + 1).decode("latin-1")
        except OSError as error:
            raise usage(
                f"cannot read the token in {str(path)!r}: {error.strerror}", "name another file"
            ) from None
    token = text.strip()
    if not token or len(token) > MAX_TOKEN_BYTES or not all("!" <= sign <= "~" for sign in token):
        raise usage(f"what {source} gives is no token", "meshctl auth prints one, in a single line")
    return token


def _profile_for(
    options: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str, profiles.Profile | None, str]:
    """Returns name and content of the profile that says where the mesh is, if one does, and what chose the address."""
    named = options.get("profile")
    if named and options.get("address"):
        raise usage("--address and --profile both say where the mesh is", "give one of them")
    if options.get("address"):
        return "", None, "--address"
    if named:
        return named, profiles.load().named(named), f"--profile {named}"
    if environ.get("AGENTMESH_ADDRESS"):
        return "", None, "AGENTMESH_ADDRESS"
    if environ.get("AGENTMESH_PROFILE"):
        name = environ["AGENTMESH_PROFILE"]
        return name, profiles.load().named(name), f"AGENTMESH_PROFILE {name}"
    known = profiles.load()
    if known.active:
        return known.active, known.named(known.active), f"profile {known.active}, which is in use"
    return "", None, ""
