"""What counts as a stall of the daemon itself."""

from __future__ import annotations

import pytest

from meshd.domain.liveness import pause_s


@pytest.mark.parametrize(
    ("since_last_turn_s", "stood_still_s"),
    [
        pytest.param(0.25, 0.0, id="a sweep on time"),
        pytest.param(0.49, 0.0, id="ordinary scheduling"),
        pytest.param(0.75, 0.5, id="more than that"),
        pytest.param(6.0, 5.75, id="a long stop"),
    ],
)
def test_a_late_turn_is_a_stall_by_what_it_is_late(since_last_turn_s: float, stood_still_s: float) -> None:
    assert pause_s(100.0, 100.0 + since_last_turn_s, 0.25) == pytest.approx(stood_still_s)
