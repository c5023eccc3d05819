"""What a run of overload concludes, from steps that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from bench.overload import HELD, TYPED, verdict


def step(name: str, goodput: float, rss_mib: float, **statuses: int) -> dict[str, Any]:
    return {
        "name": name,
        "goodput": goodput,
        "rss_mib": rss_mib,
        "offered": 1_000,
        "refused": sum(statuses.values()),
        "statuses": {TYPED: statuses.get("typed", 0), HELD: 0},
        "streams_ended": 0,
    }


def test_each_flood_is_held_against_the_peaks_around_it_and_the_memory_before_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verdict(
        [
            step("256 open", 1_000, 80),
            step("1024 open", 900, 100),
            step("10 times", 900, 110, typed=99, bare=1),
            step("afterwards", 500, 300),
            step("256 open", 800, 300),
            step("10 times", 450, 130, typed=100),
            step("afterwards", 500, 300),
            step("256 open", 1_000, 300),
        ]
    )
    printed = capsys.readouterr().out
    assert "goodput 75% of the peak (50% to 100%)" in printed
    assert "200 refused, 99.5% of them typed" in printed
    assert "RSS 1.20 of the 100 MiB at the peak (1.10 to 1.30)" in printed
    assert "of half the peak afterwards 100% served" in printed
