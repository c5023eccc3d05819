"""docs/getting-started.md, word by word: its blocks are run in their order, by two shells on two homes.

What differs from a reader's hosts: a free port stands for 7600 and localhost for mesh.example, and pip finds what it
would fetch among the packages of this environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests.faults.meshd_process import START_TIMEOUT_S, clean_environment, free_port

HOUSE = Path(__file__).resolve().parents[2]
ELSEWHERE = "# on the second machine\n"
TAKEN_ALONG = ("worker.py", "mesh.pem", "worker-2.env")
END = "--- the block is done ---"
FAILED = "--- a command failed ---"


class Block(NamedTuple):
    """One fenced block of the page."""

    language: str
    text: str


def blocks() -> list[Block]:
    text = (HOUSE / "docs/getting-started.md").read_text()
    return [
        Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    ]


class Shell:
    """A shell on a machine of its own: a home and a working folder."""

    def __init__(self, home: Path, folder: Path, **environment: str) -> None:
        home.mkdir()
        self.folder = folder
        self._errors = home / "stderr"
        self._blocks = 0
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(home / "notify"))
        self._notified.settimeout(START_TIMEOUT_S)
        own = {"HOME": str(home), "NOTIFY_SOCKET": str(home / "notify"), "MESHD_DATA_DIR": str(home / "data")}
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            own[name] = str(home / name.lower())
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["bash", "-e"],
                cwd=folder,
                env=clean_environment(**own, **environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        # What it started may hold its output open, so the end of the shell must be said.
        self._write(f"trap \"echo '{FAILED}'\" EXIT")
        return self

    def __exit__(self, *_: object) -> None:
        # The shell leads a group of its own, in which everything is that it started.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._notified.close()

    def run(self, text: str) -> str:
        """Run a block and return what it printed; every command of it must succeed."""
        self._blocks += 1
        script = self._errors.with_name(f"block-{self._blocks}.sh")
        script.write_text(text)
        self._write(f". {script} < /dev/null\necho '{END}'")
        assert self._process.stdout is not None
        printed = []
        while (line := self._process.stdout.readline().rstrip("\n")) != END:
            assert line != FAILED, f"a command failed:\n{text}\n{self._errors.read_text()[-3000:]}"
            printed.append(line)
        if re.search(r"^meshd( --.*)? &$", text, flags=re.MULTILINE):
            while self._notified.recv(4096) != b"READY=1":
                continue
        return "\n".join(printed)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of the checkout is needed to install it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("agentmesh", "meshd", "meshctl"):
        shutil.copytree(HOUSE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOUSE / name, folder)
    return folder


@pytest.fixture
def machines(tmp_path: Path, clone: Path) -> Iterator[tuple[Shell, Shell]]:
    (tmp_path / "elsewhere").mkdir()
    installed = {
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }
    with ExitStack() as stack:
        first = Shell(
            tmp_path / "a", clone, **installed, MESHD_LISTEN=f"127.0.0.1:{free_port()}", MESHD_HTTP_LISTEN=""
        )
        second = Shell(
            tmp_path / "b", tmp_path / "elsewhere", **installed, PATH=f"{clone}/venv/bin:{os.environ['PATH']}"
        )
        yield stack.enter_context(first), stack.enter_context(second)


@pytest.mark.timeout(180)  # it installs the checkout
def test_every_command_of_the_page(machines: tuple[Shell, Shell]) -> None:
    first, second = machines
    port = str(free_port())
    printed = ""
    for block in blocks():
        text = block.text.replace("7600", port).replace("mesh.example", "localhost")
        if block.language == "python":
            (first.folder / "worker.py").write_text(text)
        elif block.language == "json":
            assert json.loads(printed) == json.loads(text)
        elif text.startswith(ELSEWHERE):
            for name in TAKEN_ALONG:
                shutil.copy(first.folder / name, second.folder)
            second.run(text)
        else:
            assert block.language == "sh", f"nobody runs a block of {block.language}"
            printed = first.run(text)
