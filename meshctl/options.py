"""Options that many commands share, and `mesh_command`, which turns them into an `Invocation`.

Rule: only click is imported here; the mesh is reached when a command first asks for `Invocation.mesh`.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshctl import values

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from meshctl.mesh import Mesh

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic from click 8.4 on

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

AGENT_TYPES = ("orchestrator", "worker", "monitor", "integrator", "governor", "critic")
HEALTHS = ("declared", "healthy", "suspect", "deaf", "lost", "draining")
MAX_LIMIT = 100_000
TASK_STATES = ("waiting", "queued", "assigned", "running", "succeeded", "failed", "cancelled", "expired")

_F = TypeVar("_F", bound=Callable[..., Any])
_CONNECTION = ("address", "token", "ca", "insecure", "profile")


class Invocation:
    """One run of one command: how to reach the mesh and how to write the result."""

    def __init__(self, ctx: click.Context, connection: dict[str, Any], output: str) -> None:
        self._ctx = ctx
        #: The connection options as they were given; None where they were not.
        self.connection = connection
        self.json = output == "json"

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh; connected on first use, closed when the command ends."""
        from meshctl.mesh import connect

        return self.use(connect(self.connection))

    def use(self, mesh: Mesh) -> Mesh:
        """Closes the mesh when the command ends."""
        self._ctx.call_on_close(mesh.close)
        return mesh


def connection_options(*, hidden: bool) -> Callable[[_F], _F]:
    """Adds the options that say where meshd is and who calls. They are shown once, in `meshctl --help`."""

    def decorate(function: _F) -> _F:
        for option in reversed(
            (
                click.option(
                    "--address",
                    metavar="ADDRESS",
                    hidden=hidden,
                    help="Where meshd is: unix:/path or host:port. Default: $AGENTMESH_ADDRESS, else the profile "
                    "in use, else the operator socket of this host, else 127.0.0.1:7600.",
                ),
                click.option(
                    "--token",
                    metavar="TOKEN|@FILE",
                    hidden=hidden,
                    help="Token to call with. Others on this host can see it in the list of processes: "
                    "prefer `meshctl login`, @FILE or $AGENTMESH_TOKEN.",
                ),
                click.option(
                    "--ca",
                    metavar="FILE",
                    hidden=hidden,
                    help="PEM file with the authority of meshd's certificate; turns TLS on. "
                    "Default: $AGENTMESH_CA.",
                ),
                click.option(
                    "--insecure",
                    is_flag=True,
                    default=None,
                    hidden=hidden,
                    help="Allow a connection without TLS to another host. Default: $AGENTMESH_INSECURE.",
                ),
                click.option(
                    "--profile",
                    metavar="NAME",
                    hidden=hidden,
                    help="Use what `meshctl login` stored under this name. Default: $AGENTMESH_PROFILE, else the "
                    "one in use.",
                ),
            )
        ):
            function = option(function)
        return function

    return decorate


def mesh_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the connection options and --output; the function gets one `Invocation` for them."""

    @click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or JSON with the field names of the contract.",
    )
    @connection_options(hidden=True)
    @click.pass_context
    @functools.wraps(function)
    def run(ctx: click.Context, /, output: str, **parameters: Any) -> Any:
        everywhere = ctx.find_root().obj or {}
        connection = {}
        for name in _CONNECTION:
            here = parameters.pop(name)
            connection[name] = here if here is not None else everywhere.get(name)
        return function(Invocation(ctx, connection, output), **parameters)

    return run


class _Parsed(_ParamType):
    """A parameter that one function of `values` reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads text; anything else was read before."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Parsed("duration", values.parse_duration)
PRIORITY = _Parsed("priority", values.parse_priority)


def duration_option(name: str, help_text: str, **more: Any) -> Callable[[_F], _F]:
    """Adds an option whose value is a length of time, a `datetime.timedelta`."""
    return click.option(name, type=DURATION, metavar="DURATION", help=help_text, **more)


def namespace_option(help_text: str) -> Callable[[_F], _F]:
    """Adds -n/--namespace; its environment variable is the one the agents use."""
    return click.option("-n", "--namespace", metavar="NAME", envvar="AGENTMESH_NAMESPACE", help=help_text)


def agent_type_option(*, required: bool, help_text: str) -> Callable[[_F], _F]:
    """Adds --agent-type."""
    return click.option(
        "--agent-type",
        type=click.Choice(AGENT_TYPES, case_sensitive=False),
        required=required,
        help=help_text,
    )


def health_option(help_text: str) -> Callable[[_F], _F]:
    """Adds --health, which may be given more than once."""
    return click.option(
        "--health", type=click.Choice(HEALTHS, case_sensitive=False), multiple=True, help=help_text
    )


def capabilities_option(help_text: str) -> Callable[[_F], _F]:
    """Adds --capabilities: a comma-separated list, which may be given more than once."""
    return click.option(
        "--capabilities",
        "--capability",
        "capabilities",
        metavar="LIST",
        multiple=True,
        callback=split,
        help=help_text,
    )


def labels_option(help_text: str) -> Callable[[_F], _F]:
    """Adds --label KEY=VALUE, which may be given more than once."""
    return click.option(
        "--label", "labels", metavar="KEY=VALUE", multiple=True, callback=_labels, help=help_text
    )


def limit_option(default: int) -> Callable[[_F], _F]:
    """Adds --limit: the most entries a list returns."""
    return click.option(
        "--limit",
        type=click.IntRange(1, MAX_LIMIT),
        default=default,
        show_default=True,
        help="At most this many.",
    )


def split(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    """Callback of an option that is a comma-separated list and may be given more than once."""
    return values.split_list(texts)


def checked_conditions(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of an option whose values are conditions on labels; returns them as they were typed."""
    from agentmesh.conditions import label_conditions

    try:
        label_conditions(texts)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return texts


def _labels(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    try:
        return values.parse_labels(texts)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def seconds(length: datetime.timedelta | None) -> float | None:
    """Returns a length of time in seconds; None when there is none."""
    return None if length is None else length.total_seconds()


def duration(length: datetime.timedelta | None) -> Duration | None:
    """Returns a length of time as the contract writes it; None when there is none."""
    if length is None:
        return None
    from google.protobuf.duration_pb2 import Duration

    message = Duration()
    message.FromTimedelta(length)
    return message
