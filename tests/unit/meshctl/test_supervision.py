"""A supervised process: restarted after a crash, stopped by a signal, never left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from meshctl import supervision
from meshctl.problems import ExitCode


def python(program: str) -> list[str]:
    """A command that runs a program."""
    return [sys.executable, "-c", program]


def signal_when(path: Path, *numbers: int) -> None:
    """Sends signals to this process, over a second apart, once a file exists."""

    def send() -> None:
        while not path.exists():
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(supervision.SAME_SIGNAL_S + 0.2)

    threading.Thread(target=send, daemon=True).start()


def test_a_crash_is_followed_by_a_restart_with_backoff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", 0.05)
    program = f"""
import os, sys
with open({str(tmp_path / "runs")!r}, "a") as file: file.write(os.environ["AGENTMESH_AGENT_ID"])
sys.exit(0 if os.path.getsize({str(tmp_path / "runs")!r}) == 3 else 7)
"""
    assert supervision.run(python(program), {"AGENTMESH_AGENT_ID": "w"}) == ExitCode.DONE
    assert (tmp_path / "runs").read_text() == "www"
    notes = capsys.readouterr().err
    assert "ended with code 7; starting it again in 0.05 s." in notes
    assert "starting it again in 0.1 s." in notes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_forwarded_and_ends_it_well(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = tmp_path / "ready"
    program = f"""
import signal, sys, pathlib
signal.signal({int(number)}, lambda *a: sys.exit(0))
pathlib.Path({str(ready)!r}).touch()
signal.pause()
"""
    before = signal.getsignal(number)
    signal_when(ready, number)
    assert supervision.run(python(program), {}) == ExitCode.DONE
    assert "It ended with code 0." in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_the_same_signal_twice_at_once_is_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "SAME_SIGNAL_S", 20.0)
    ready = tmp_path / "ready"
    program = f"""
import signal, sys, pathlib, time
signal.signal(signal.SIGTERM, lambda *a: (time.sleep(0.5), sys.exit(0)))
pathlib.Path({str(ready)!r}).touch()
signal.pause()
"""

    def send() -> None:
        while not ready.exists():
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    threading.Thread(target=send, daemon=True).start()
    assert supervision.run(python(program), {}) == ExitCode.DONE


def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = tmp_path / "ready"
    program = f"""
import os, signal, pathlib, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
    signal_when(ready, signal.SIGTERM, signal.SIGTERM)
    assert supervision.run(python(program), {}) == ExitCode.TASK_FAILED
    assert "It had to be killed." in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready.read_text()), 0)


def test_a_signal_during_the_backoff_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", 20.0)
    ready = tmp_path / "ready"
    program = f"import pathlib, sys; pathlib.Path({str(ready)!r}).touch(); sys.exit(3)"

    def send() -> None:
        while not ready.exists():
            time.sleep(0.02)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    assert supervision.run(python(program), {}) == ExitCode.TASK_FAILED
    assert "Stopped while waiting" in capsys.readouterr().err
