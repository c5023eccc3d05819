"""The shape of the command line: quick to start, complete in its help, and the same words everywhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentmesh.v1 import agent_pb2, task_pb2
from meshctl import __main__ as meshctl_main
from meshctl import app, options
from meshctl.problems import EXIT_CODE_MEANINGS, ExitCode
from meshctl.reference import every_command

HEAVY = ("grpc", "google.protobuf", "rich", "agentmesh.connection")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["help", "exit-codes"], ["completion", "zsh"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from meshctl.app import run; code = run(sys.argv[1:]); "
        f"sys.exit(code or any(name in sys.modules for name in {HEAVY!r}))"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_without_click_it_says_how_to_install(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; sys.modules['click'] = None; from meshctl.__main__ import main; sys.exit(main())"
    process = subprocess.run([sys.executable, "-c", program], check=False)
    assert process.returncode == 2
    assert "pip install '.[meshctl]'" in capfd.readouterr().err


def test_a_thread_that_does_not_end_does_not_keep_the_process() -> None:
    program = (
        "import sys, threading; threading.Thread(target=threading.Event().wait).start(); "
        "from meshctl.__main__ import main; sys.exit(main())"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, "--version"], check=True, stdout=subprocess.PIPE, timeout=20
    )
    assert process.stdout.startswith(b"meshctl")


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, (place, short_help) in app.COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert (command.help or "").startswith(short_help.removesuffix(".").split(":")[0]), name


def test_every_command_and_option_has_help() -> None:
    ctx = click.Context(app.cli, info_name="meshctl")
    paths = [entry.path for entry in every_command()]
    assert len(paths) == len(set(paths)) > 25
    for entry in every_command():
        assert entry.help, entry.path
        words = entry.path.split()[1:]
        command: click.Command = app.cli
        for word in words:
            assert isinstance(command, click.Group)
            found = command.get_command(ctx, word)
            assert found is not None
            command = found
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, (entry.path, option.name)


def test_every_command_but_groups_writes_json() -> None:
    groups = {
        "meshctl",
        "meshctl task",
        "meshctl agent",
        "meshctl namespace",
        "meshctl token",
        "meshctl profile",
        "meshctl audit",
    }
    for entry in every_command():
        if entry.path not in groups | {"meshctl completion", "meshctl help"}:
            assert any(spelling.startswith("-o, --output") for spelling, _ in entry.options), entry.path


def test_choices_are_the_words_of_the_contract() -> None:
    assert list(options.AGENT_TYPES) == words_of(agent_pb2.AgentType.keys(), "AGENT_TYPE_")
    assert list(options.HEALTHS) == words_of(agent_pb2.Health.keys(), "HEALTH_")
    assert list(options.TASK_STATES) == words_of(task_pb2.TaskState.keys(), "TASK_STATE_")


def words_of(names: list[str], prefix: str) -> list[str]:
    """The contract's names without prefix and without the unspecified one."""
    return [name.removeprefix(prefix).lower() for name in names if not name.endswith("_UNSPECIFIED")]


def test_ctrl_c_before_a_command_runs_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(meshctl_main, "_prepare_streams", interrupted)
    assert meshctl_main.main() == 130


def test_every_exit_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)
    assert app.run(["help", "exit-codes"]) == 0
    assert "timed out" in capsys.readouterr().out


def test_help_of_a_nested_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["help", "task", "get"]) == 0
    assert capsys.readouterr().out.startswith("Usage: meshctl task get")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert "_MESHCTL_COMPLETE" in capsys.readouterr().out


def test_every_command_that_a_text_names_exists() -> None:
    """Hints, help, docs and errors of the daemon: whatever says `meshctl task x` says what can be typed."""
    tree = Path(app.__file__).parents[1]
    groups = {entry.path.split()[1] for entry in every_command() if entry.path.count(" ") == 2}
    paths = {entry.path for entry in every_command()}
    files = [
        *(
            path
            for room in ("meshctl", "agentmesh", "meshd", "deploy")
            for path in (tree / room).rglob("*.*")
        ),
        *(path for path in (tree / "docs").rglob("*.md") if "adr" not in path.parts),
        tree / "README.md",
    ]
    named = {
        f"meshctl {group} {name}"
        for path in files
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".service"}
        for group, name in re.findall(r"\bmeshctl ([a-z]+) ([a-z][a-z-]+)\b", path.read_text())
        if group in groups
    }
    assert len(named) > 15
    assert named <= paths
