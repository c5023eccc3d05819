"""Metrics of a whole mesh: each metric of the catalogue is on the page, and says what happened."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from agentmesh.v1 import session_pb2, task_pb2
from meshd.ops import catalogue
from tests.wire.mesh.conftest import RunningMesh


async def samples(mesh: RunningMesh) -> dict[str, float]:
    """Scrape as the HTTP port does, on another thread; values by name and labels."""
    page = (await asyncio.to_thread(mesh.metrics.page)).decode()
    families = list(text_string_to_metric_families(page))
    without_certificate = {"meshd_certificate_expire_time_seconds"}
    known = {metric.name for metric in catalogue.every_metric()}
    assert {family.name for family in families} == known - without_certificate
    return {
        " ".join(
            [sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "namespace")]
        ): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("namespace", "default") == "default"
    }


async def test_a_task_is_seen_at_every_stage(mesh: RunningMesh) -> None:
    await mesh.submit("t1")
    seen = await samples(mesh)
    assert seen["meshd_tasks_open state=queued"] == 1
    assert seen["meshd_tasks_unplaceable"] == 1
    assert seen["meshd_task_durable_seconds_count"] == 1
    agent = await mesh.agent("a1")
    fence = (await agent.expect("assign")).assign.fence
    seen = await samples(mesh)
    assert seen["meshd_tasks_open state=assigned"] == 1
    assert seen["meshd_tasks_unplaceable"] == 0
    assert seen["meshd_sessions state=healthy"] == seen["meshd_streams"] == 1
    assert seen["meshd_task_assigned_seconds_count"] == 1
    await agent.send(accept=session_pb2.Accept(fence=fence))
    await agent.send(done=session_pb2.Done(fence=fence))
    await agent.expect("ack")
    seen = await samples(mesh)
    for stage in ("attempt_accepted", "attempt_ran", "task_succeeded"):
        assert seen[f"meshd_{stage}_seconds_count"] == 1, stage
    assert seen["meshd_tasks_ended_total reason=completed state=succeeded"] == 1
    assert seen["meshd_database_bytes"] > 0


async def test_an_attempt_that_is_declined_is_counted_as_returned(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1")
    await mesh.submit("t1")
    fence = (await agent.expect("assign")).assign.fence
    await agent.send(decline=session_pb2.Decline(fence=fence, reason="busy"))
    while (await mesh.wait("t1", 0)).state != task_pb2.TASK_STATE_QUEUED:
        pass
    assert (await samples(mesh))["meshd_attempts_returned_total cause=declined"] == 1
