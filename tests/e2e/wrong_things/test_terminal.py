"""Wrong things about the terminal: Ctrl-C in each command, a reader that goes away, 40 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from meshctl.app import cli
from tests.e2e.wrong_things import page
from tests.e2e.wrong_things.house import House
from tests.faults.meshd_process import clean_environment

INTERRUPTED = 130
OUTPUT_CLOSED = 141
BUG = 70
COLUMNS = 40


def leaves(command: click.Command, ctx: click.Context) -> list[list[str]]:
    """Every command that does something, typed with what it requires."""
    if isinstance(command, click.Group):
        found = []
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            found += [
                [name, *rest] for rest in leaves(child, click.Context(child, info_name=name, parent=ctx))
            ]
        return found
    typed: list[str] = []
    for parameter in command.get_params(ctx):
        if parameter.required:
            kind = parameter.type
            value = str(kind.choices[0]) if isinstance(kind, click.Choice) else "x"
            typed += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
    return [typed]


# What a command requires though no single option says so.
MORE = {
    ("auth",): ["--agent-id", "x", "--agent-type", "worker"],
    ("token", "introspect"): ["x"],
    ("token", "revoke"): ["x"],
}
COMMANDS = [
    [*typed, *MORE.get(tuple(typed), [])] for typed in leaves(cli, click.Context(cli, info_name="meshctl"))
]


def interrupted(arguments: list[str], folder: Path) -> tuple[int, str] | None:
    """Ctrl-C while a command waits for a meshd that never answers; None when it ends without asking one."""
    (folder / "agentmesh").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "agentmesh" / "meshd.sock"))
        silent.listen()
        silent.settimeout(0.05)
        process = subprocess.Popen(
            [sys.executable, "-m", "meshctl", *arguments],
            env=clean_environment(XDG_RUNTIME_DIR=str(folder), XDG_CONFIG_HOME=str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            try:
                connection, _ = silent.accept()
            except TimeoutError:
                continue
            with connection:
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=20)
                return process.returncode, err
        _, err = process.communicate()
        assert process.returncode != BUG, (arguments, err)
        assert "Traceback" not in err, (arguments, err)
        return None


def test_ctrl_c_in_each_command(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(COMMANDS))]
    with ThreadPoolExecutor(4) as several:
        endings = list(several.map(interrupted, COMMANDS, folders))
    asked = 0
    for arguments, ending in zip(COMMANDS, endings, strict=True):
        if ending is None:
            continue
        asked += 1
        code, err = ending
        assert code == INTERRUPTED, (arguments, code, err)
        what, next_step = err.strip().splitlines()
        assert what.startswith("interrupted"), (arguments, err)
        assert next_step.startswith("next: "), (arguments, err)
    assert asked > len(COMMANDS) / 2  # completion, help and the like ask nobody
    example = endings[COMMANDS.index(["status"])]
    assert example is not None
    page.check("Ctrl-C in a command", f"$ meshctl status\n^C{example[1]}(exit code {example[0]})")


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("task", "list"), ("namespace", "list", "-o", "json"), ("audit", "list"), ("--help",)],
    ids=" ".join,
)
def test_a_reader_that_goes_away(house: House, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "meshctl", *arguments],
        env=house.environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (OUTPUT_CLOSED, "")
    if arguments == ("task", "list"):
        page.check("Output into a closed pipe", f"$ meshctl task list | true\n(exit code {done.returncode})")


def on_a_narrow_terminal(house: House, *arguments: str) -> tuple[int, str]:
    """Run meshctl on a terminal of 40 columns; returns its exit code and what the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {
        key: value for key, value in house.environment().items() if key not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl", *arguments],
        env={**environment, "TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        sent += piece
    os.close(ours)
    return process.wait(20), sent.decode().replace("\r\n", "\n")


def test_a_terminal_of_40_columns(house: House) -> None:
    capability = "a-capability-that-is-longer-than-any-column"
    deployed = house.meshctl(
        "deploy",
        "--agent-id",
        "narrow",
        "--agent-type",
        "worker",
        "--capabilities",
        capability,
        "-n",
        "default",
    )
    assert deployed.code == 0
    code, shown = on_a_narrow_terminal(house, "discover", "-n", "default", "--capability", capability)
    assert code == 0
    assert capability in shown  # nothing is cut
    page.check("A terminal of 40 columns", f"$ meshctl discover --capability {capability}\n{shown}")
    for arguments in (("status",), ("task", "list"), ("workload",), ("audit", "list"), ("execute", "--help")):
        code, shown = on_a_narrow_terminal(house, *arguments)
        assert code == 0, shown
        assert "Traceback" not in shown
        assert "…" not in shown, shown
    code, shown = on_a_narrow_terminal(house, "task", "get", "missing", "-n", "default")
    assert code == 3
    assert shown.count("\n") == 2
