"""What the mesh tells of itself."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from agentmesh.v1 import registry_service_pb2 as pb
from tests.wire.mesh.conftest import RunningMesh

pytestmark = pytest.mark.anyio


async def told(mesh: RunningMesh) -> pb.GetMeshStatusResponse:
    answer: pb.GetMeshStatusResponse = await mesh.operator.registry.GetMeshStatus(pb.GetMeshStatusRequest())
    return answer


async def test_clock_pace_and_storage(mesh: RunningMesh, tmp_path: Path) -> None:
    before_ms = time.time_ns() // 1_000_000
    status = await told(mesh)
    assert before_ms <= status.server_time.ToMilliseconds() <= time.time_ns() // 1_000_000
    assert status.keepalive.ToMilliseconds() == 1_000
    assert status.storage.engine == f"SQLite {sqlite3.sqlite_version}"
    assert status.storage.min_free_bytes == 64 * 1024 * 1024
    assert 0 < status.storage.free_bytes <= shutil.disk_usage(tmp_path).total


async def test_tasks_that_no_agent_in_reach_can_take(mesh: RunningMesh) -> None:
    async def unplaceable() -> tuple[int, str]:
        (entry,) = [each for each in (await told(mesh)).namespaces if each.namespace == "default"]
        return entry.unplaceable_count, entry.unplaceable_task_id

    assert await unplaceable() == (0, "")
    for name in ("first", "second"):
        await mesh.submit(name)
    await mesh.submit("other", task_type="rare")
    count, task_id = await unplaceable()
    assert (count, task_id in ("first", "other")) == (3, True)
    agent = await mesh.agent("w-1", slots=1)
    await agent.expect("assign")
    assert await unplaceable() == (1, "other"), "a full agent is in reach"
