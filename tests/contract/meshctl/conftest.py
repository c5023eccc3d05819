"""A fake meshd, and `meshctl` run in this process with its streams and its exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshctl.app import run
from tests.contract.meshctl.fake_meshd import FakeMeshd


@dataclass
class Outcome:
    """What one run of meshctl left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


Meshctl = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's environment reaches a test."""
    for name in [name for name in os.environ if name.startswith("AGENTMESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def meshd(tmp_path: Path) -> Iterator[FakeMeshd]:
    """A fake meshd where meshctl looks first: the operator socket."""
    directory = tmp_path / "agentmesh"
    directory.mkdir()
    fake = FakeMeshd(directory / "meshd.sock")  # type: ignore[abstract]  # agents' calls are left out
    fake.start()
    yield fake
    fake.release.set()
    fake.stop()


@pytest.fixture
def meshctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Meshctl:
    """Runs meshctl with arguments, and bytes on its standard input."""

    def run_meshctl(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_meshctl
