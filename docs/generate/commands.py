"""docs/reference/commands.md: every command of meshctl and meshd with its options."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from docs.generate.markdown import cell, table
from meshctl.problems import EXIT_CODE_MEANINGS
from meshctl.reference import CommandReference, every_command
from meshd.config.sources import parser

HEAD = """\
# Commands

Made by `make docs` from the commands themselves. `meshctl COMMAND --help` and `meshd --help` say the same.
`meshctl help connection` and `meshctl help environment` tell where meshctl looks for meshd.

"""


def page() -> str:
    """Return the page."""
    known = list(every_command())
    toc = "".join(f"- [`{each.path}`](#{_anchor(each.path)})\n" for each in known)
    codes = [[str(code.value), cell(meaning)] for code, meaning in EXIT_CODE_MEANINGS.items()]
    parts = [
        HEAD + toc + "- [`meshd`](#meshd)\n",
        "## Exit codes of meshctl\n\n" + table(["Code", "Meaning"], codes),
        *(_command(each) for each in known),
        _meshd(),
    ]
    return "\n".join(parts)


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


def _command(each: CommandReference) -> str:
    text = f"## {each.path}\n\n```text\n{each.usage}\n```\n\n{_paragraphs(each.help)}\n"
    return text + (f"\n{_options(list(each.options))}" if each.options else "")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _options(options: list[tuple[str, str]]) -> str:
    return table(["Option", "Meaning"], [[f"`{cell(spelling)}`", cell(text)] for spelling, text in options])


def _meshd() -> str:
    made = parser()
    commands = next(each for each in made._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    parts = [
        "## meshd\n\n```text\nmeshd [--config FILE] [SETTINGS]\n```\n",
        f"{made.description} [settings.md](settings.md) lists the settings.\n",
        "Exit codes: 0 stopped by a signal or done, 2 could not start, 3 the storage failed.\n",
    ]
    for name, command in commands.choices.items():
        parts.append(f"## meshd {name}\n\n```text\n{_usage(command)}\n```\n\n{command.description}\n")
        parts.append(_options([_shown(each) for each in command._actions if each.dest != "help"]))  # noqa: SLF001
    return "\n".join(parts)


def _usage(command: argparse.ArgumentParser) -> str:
    return " ".join(command.format_usage().removeprefix("usage: ").split())


def _shown(action: argparse.Action) -> tuple[str, str]:
    words: list[Any] = [", ".join(action.option_strings), action.metavar]
    return " ".join(word for word in words if word), str(action.help)


if __name__ == "__main__":
    sys.stdout.write(page())
