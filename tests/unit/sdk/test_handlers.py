"""What a handler may say of its attempt."""

from __future__ import annotations

import pytest

from agentmesh import InvalidRequest, TaskContext
from agentmesh.handlers import Progressed, Uplink
from agentmesh.session import Attempt
from agentmesh.v1.session_pb2 import Assign


def test_progress_that_is_a_hair_beyond_its_end_costs_no_attempt() -> None:
    uplink = Uplink(lambda: None)
    task = TaskContext(Attempt(Assign(fence=b"a")), uplink)
    task.progress(sum([1 / 9] * 9))
    ((_, report),) = uplink.take_all()
    assert isinstance(report, Progressed)
    assert report.fraction == 1.0
    for fraction in (1.01, -0.01, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="between 0 and 1"):
            task.progress(fraction)
    assert uplink.take_all() == []
