"""A long run that was cut off goes on where it was, with the same sources only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import progress
from tests.simulation.progress import Progress


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    cut_off = Progress(tmp_path, 100, 50)
    cut_off.judged(120, [(107, "P1: lost")], 1.5)
    cut_off.judged(140, [], 2.5)
    again = Progress(tmp_path, 100, 50)
    assert (again.next, again.seconds, again.violations) == (140, 2.5, [(107, "P1: lost")])


def test_another_run_begins_at_its_own_first(tmp_path: Path) -> None:
    Progress(tmp_path, 100, 50).judged(120, [], 1.5)
    assert Progress(tmp_path, 100, 60).next == 100
    assert Progress(tmp_path, 101, 50).next == 101


def test_other_sources_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Progress(tmp_path, 100, 50).judged(120, [(107, "P1: lost")], 1.5)
    monkeypatch.setattr(progress, "sources", lambda: "others")
    anew = Progress(tmp_path, 100, 50)
    assert (anew.next, anew.violations) == (100, [])
    assert "other sources" in capsys.readouterr().out


def test_a_short_run_keeps_nothing(tmp_path: Path) -> None:
    Progress(None, 100, 50).judged(150, [], 1.5)
    assert not list(tmp_path.iterdir())
