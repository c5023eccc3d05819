"""Where settings come from: flag > environment MESHD_<NAME> > TOML file > default.

Rule: whatever is not understood is an error that names the key, where it stood and the nearest valid name.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from meshd.config.settings import Settings, SettingsError

SYSTEM_FILE = Path("/etc/meshd/meshd.toml")
ENVIRONMENT_PREFIX = "MESHD_"
OTHER_FLAGS = ("--help", "--version", "--config", "--replace")

# Kubernetes puts NAME_SERVICE_HOST and these into every container beside a Service; they are no settings.
SERVICE_HOST = "_SERVICE_HOST"
SERVICE_LINK = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def environment_name(name: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


class CommandLine(NamedTuple):
    """What to do, and with which settings."""

    settings: Settings
    command: str = ""
    """``backup`` or ``restore``; empty: serve."""
    file: str = ""
    replace: bool = False


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> CommandLine:
    """Read the command line and the settings from all four sources.

    Raises SettingsError; ``--help`` raises SystemExit as argparse does.
    """
    flags = vars(_parse(arguments))
    command, file = flags.pop("command") or "", flags.pop("file", "")
    replace = flags.pop("replace", False)
    named = flags.pop("config") or environment.get(environment_name("config"), "")
    if named:
        values = _from_file(Path(named))
    elif SYSTEM_FILE.exists():
        values = _from_file(SYSTEM_FILE)
    else:
        values = {}
    values |= _from_environment(environment)
    known = _known()
    values |= {
        name: value if isinstance(value, bool) else _from_text(known[name], value, _flag(name))
        for name, value in flags.items()
        if value is not None
    }
    return CommandLine(Settings(**values), command, file, replace)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return parser().parse_args(arguments)
    except SettingsError:
        # argparse may trip over an unknown flag's value first, so the flags are looked at once more.
        valid = [_flag(name) for name in _known()]
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag.replace("--no-", "--", 1) not in {*valid, *OTHER_FLAGS}:
                raise _unknown(flag, "on the command line", valid) from None
        raise


class _Parser(argparse.ArgumentParser):
    """Tells what was typed wrong as every other mistake in a setting is told."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(
            message, f"{self.prog} --help" + (" lists them all" if self.prog == "meshd" else "")
        )


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"meshd {version('agentmesh-controlplane')}")  # noqa: T201 - this is what the flag is for
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of meshd's command line: one flag a setting."""
    made = _Parser(
        prog="meshd",
        description="The daemon of Agent Mesh. It needs no command and no setting at all.",
        epilog="Each setting can be given as flag, as environment variable MESHD_<NAME> or as <name> in the TOML "
        "file; the first of these that is present counts.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action=_Version, nargs=0, help="show the version of meshd and end")
    made.add_argument(
        "--config", metavar="FILE", help=f"TOML file of settings [MESHD_CONFIG; {SYSTEM_FILE} if present]"
    )
    groups: dict[str, Any] = {}
    for name, known in _known().items():
        group = known.metadata["group"]
        if group not in groups:
            groups[group] = made.add_argument_group(group)
        flag = _flag(name)
        text = describe(known).replace("%", "%%")
        if known.type == "bool":
            groups[group].add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = "N" if known.type == "int" else "VALUE"
            groups[group].add_argument(flag, metavar=metavar, default=None, help=text)
    _add_commands(made)
    return made


def _add_commands(made: argparse.ArgumentParser) -> None:
    """Add what meshd does instead of serving."""
    commands = made.add_subparsers(
        title="Commands", dest="command", metavar="COMMAND", description="Without one, meshd serves."
    )
    backup = commands.add_parser(
        "backup",
        help="write a copy of the database to a file; a meshd may be running on it",
        description="Write a whole, checked copy of the database to FILE, whether meshd runs on it or not. "
        "FILE must not exist yet. Signing keys are not in it.",
        allow_abbrev=False,
    )
    restore = commands.add_parser(
        "restore",
        help="make a backup the database; meshd must be stopped",
        description="Make a backup the database of the data directory. Every token and fence handed out before is "
        "refused from then on; agents return by their own keys.",
        allow_abbrev=False,
    )
    restore.add_argument(
        "--replace",
        action="store_true",
        help="put it in the place of the database that is there, which is kept aside",
    )
    for command in (backup, restore):
        command.add_argument("file", metavar="FILE", help="the backup")
        # Absent here, so that the same flag before the command's name stands.
        for flag, metavar in (("--data-dir", "VALUE"), ("--config", "FILE")):
            command.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help="as for meshd itself")


def describe(known: Field[Any]) -> str:
    """Return a setting's text with its choices or bounds and its default."""
    low, high = known.metadata["bounds"]
    allowed = "|".join(known.metadata["choices"]) or (f"{low} to {high}" if high else "")
    text = known.metadata["text"]
    return f"{text} [{allowed + '; ' if allowed else ''}default: {shown_default(known)}]"


def _remedy(known: Field[Any]) -> str:
    """Return what to do about a value that cannot be."""
    low, high = known.metadata["bounds"]
    if known.type == "bool":
        return "set it to true or false"
    if high:
        return f"set it to {low} to {high}"
    return f"set it to {'a number' if known.type == 'int' else 'text'}: {known.metadata['text']}"


def shown_default(known: Field[Any]) -> str:
    """Return a setting's default as a reader may see it."""
    if known.metadata["shown"]:
        return str(known.metadata["shown"])
    if known.type == "bool":
        return "on" if known.default else "off"
    return str(known.default) or '""'


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _known() -> dict[str, Field[Any]]:
    return {known.name: known for known in fields(Settings)}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}", "check --config and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}", "deploy/meshd.toml shows the form") from None
    known = _known()
    for name, value in content.items():
        if name not in known:
            raise _unknown(name, f"in {path}", list(known))
        _check_type(known[name], value, str(path))
    return content


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = _known()
    services = [name.removesuffix(SERVICE_HOST) for name in environment if name.endswith(SERVICE_HOST)]
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == environment_name("config"):
            continue
        if any(
            variable.startswith(each) and SERVICE_LINK.fullmatch(variable, len(each)) for each in services
        ):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in known or variable != environment_name(name):
            raise _unknown(variable, "in the environment", [environment_name(each) for each in known])
        values[name] = _from_text(known[name], text, variable)
    return values


def _unknown(name: str, where: str, valid: list[str]) -> SettingsError:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return SettingsError(
        f'unknown setting "{name}" {where}',
        f'did you mean "{near[0]}"?' if near else "meshd --help lists them all",
    )


def _from_text(known: Field[Any], text: str, where: str) -> str | int | bool:
    value: str | int | bool = text
    if known.type == "int":
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise SettingsError(f'{known.name} in {where} is "{text}", not a whole number', _remedy(known))
        value = int(text)
    elif known.type == "bool":
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        if text.lower() not in words:
            raise SettingsError(
                f'{known.name} in {where} is "{text}", neither true nor false', _remedy(known)
            )
        value = words[text.lower()]
    _check_type(known, value, where)
    return value


def _check_type(known: Field[Any], value: object, where: str) -> None:
    wanted, word = {"str": (str, "text"), "int": (int, "a whole number"), "bool": (bool, "true or false")}[
        str(known.type)
    ]
    if type(value) is not wanted:
        raise SettingsError(
            f"{known.name} in {where} must be {word}, not {type(value).__name__}", _remedy(known)
        )
    low, high = known.metadata["bounds"]
    if isinstance(value, int) and high and not low <= value <= high:
        raise SettingsError(f"{known.name} in {where} is {value}, outside {low} to {high}", _remedy(known))
    choices = known.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f'{known.name} in {where} is "{value}"', f"use one of: {', '.join(choices)}")
