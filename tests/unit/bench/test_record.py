"""A benchmark's record: ratios are formed within a round, goals judged by the median, and no path is kept."""

import json
from pathlib import Path

import pytest

from bench import compare, record
from bench.__main__ import FIGURES
from bench.page import PAGE, fill
from bench.record import Figure, Goal, Row, keep, summarise, table


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rounds = [{"ours": 10, "echo": 100}, {"ours": 40, "echo": 200}, {"ours": 30, "echo": 50}]
    figure = Figure("ratio", "ratio", lambda each: each["ours"] / each["echo"], Goal("≥", 0.25))
    (row,) = summarise([figure], rounds)
    assert (row.min, row.median, row.max) == (0.1, 0.2, 0.6)
    assert row.met is False


@pytest.mark.parametrize(("sign", "value", "met"), [("≥", 2.0, True), ("≥", 1.9, False), ("≤", 2.1, False)])
def test_goal_is_a_bound(sign: str, value: float, met: bool) -> None:
    assert Goal(sign, 2).met(value) is met


def test_figures_have_names_of_their_own() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)


def test_record_names_neither_host_nor_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "KEPT", tmp_path)
    monkeypatch.setattr(record, "BUILD", tmp_path)
    text = keep("run", [Row("a", "ms", 2, 1, 3)], rounds=3).read_text()
    assert str(Path.cwd()) not in text
    assert str(Path.home()) not in text
    assert Path("/etc/hostname").read_text().strip() not in text
    assert json.loads(text)["rows"][0]["median"] == 2


def test_comparison_marks_only_rounds_that_lie_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "KEPT", tmp_path)
    for commit, rows in (
        ("aaaa", [Row("rate", "tasks/s", 20, 10, 30), Row("cpu", "µs", 40, 35, 45)]),
        ("bbbb", [Row("rate", "tasks/s", 25, 15, 35), Row("cpu", "µs", 20, 19, 21)]),
    ):
        kept = {"commit": commit, "machine": {}, "rows": [vars(row) for row in rows]}
        (tmp_path / f"run-{commit}.json").write_text(json.dumps(kept))
    compare.main("aaaa", "bb")
    rate, cpu = capsys.readouterr().out.splitlines()[-2:]
    assert "1.25" in rate
    assert "real" not in rate
    assert "0.50 | real" in cpu


def test_newest_tables_go_between_their_marks() -> None:
    text = "a\n<!-- run -->\nold\n<!-- /run -->\nb\n<!-- peers -->\n<!-- /peers -->\n"
    filled = fill(text, "run", r"new \1")
    assert filled == "a\n<!-- run -->\n\nnew \\1\n\n<!-- /run -->\nb\n<!-- peers -->\n<!-- /peers -->\n"
    assert fill(filled, "run", r"new \1") == filled


def test_page_has_the_marks() -> None:
    text = (Path(__file__).parents[3] / PAGE).read_text()
    for kind in ("run", "peers"):
        assert "new" in fill(text, kind, "new")


def test_page_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="peers"):
        fill("<!-- run -->\n<!-- /run -->", "peers", "new")


def test_runs_are_ordered_by_their_commits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "KEPT", tmp_path)
    for name, committed in (("bb", "2026-01-01T00:30:00+00:00"), ("aa", "2026-01-01T01:00:00+02:00")):
        (tmp_path / f"run-{name}.json").write_text(json.dumps({"commit": name, "committed": committed}))
    assert [each["commit"] for each in record.in_order("run")] == ["aa", "bb"]


def test_unknown_run_is_named() -> None:
    with pytest.raises(SystemExit, match="'nowhere'"):
        record.find("nowhere")


def test_table_says_which_goals_are_met() -> None:
    lines = table([Row("a", "ms", 2, 1, 3, "≤ 2", True), Row("b", "ms", 2, 1, 3, "≤ 1", False)]).splitlines()
    assert lines[2].endswith("| ≤ 2       | yes |")
    assert lines[3].endswith("| ≤ 1       | no  |")
