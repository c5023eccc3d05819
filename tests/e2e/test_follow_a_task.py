"""One task followed by its id: through meshd's log, and through one trace from submitter to handler."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from agentmesh import Agent, Mesh, SyncMesh, TaskContext, task_spec
from agentmesh.v1 import task_pb2
from tests.faults.meshd_process import ChildProcess, MeshdProcess

OUTSIDE = f"00-{'a' * 32}-{'b' * 16}-01"
SECRET = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


def steps(meshd: MeshdProcess, task_id: str) -> list[tuple[str, int, str]]:
    lines = [json.loads(line) for line in meshd.log.read_text().splitlines()]
    mine = [line for line in lines if line.get("task_id") == task_id]
    assert all(line["namespace"] == "default" for line in mine)
    return [(line["event"], line["attempt"], line["agent_id"]) for line in mine]


def worker(folder: Path, meshd: MeshdProcess, name: str) -> ChildProcess:
    return ChildProcess.python(
        name,
        "tests.e2e.worker_process",
        folder,
        AGENTMESH_ADDRESS=meshd.address,
        AGENTMESH_AGENT_ID=name,
        AGENTMESH_NAMESPACE="default",
        AGENTMESH_STATE_DIR=str(folder / f"state-{name}"),
    )


async def until_assigned(mesh: Mesh, task_id: str) -> None:
    async for event in mesh.watch(task_id):
        if event.task.attempt.agent_id:
            return


async def test_the_log_tells_the_life_of_a_task(tmp_path: Path) -> None:
    arguments = ("--log-level", "debug", "--log-format", "json")
    with MeshdProcess(tmp_path, arguments=arguments) as meshd:
        async with Mesh(meshd.address, namespace="default") as mesh:
            with worker(tmp_path, meshd, "w1") as first:
                await mesh.submit("nap", "30", task_id="followed", labels={"token": SECRET})
                await until_assigned(mesh, "followed")
                first.kill()
                with worker(tmp_path, meshd, "w2"):
                    async for event in mesh.watch("followed"):
                        if event.task.attempt.number == 2:
                            break
                    await mesh.cancel("followed")
                    task = await mesh.wait("followed")
        assert task.state == task_pb2.TASK_STATE_CANCELLED
        meshd.stop()
        assert steps(meshd, "followed") == [
            ("task submitted", 0, ""),
            ("task assigned", 1, "w1"),
            ("task attempt lost", 1, "w1"),
            ("task assigned", 2, "w2"),
            ("task stopping", 2, "w2"),
            ("task attempt stopped", 2, "w2"),
            ("task ended", 2, "w2"),
        ]
        assert SECRET not in meshd.log.read_text()


async def test_the_log_is_silent_about_tasks_unless_asked(tmp_path: Path) -> None:
    with MeshdProcess(tmp_path, arguments=("--log-format", "json")) as meshd:
        async with Mesh(meshd.address, namespace="default") as mesh:
            await mesh.submit("nap", "0", task_id="quiet")
            await mesh.cancel("quiet")
        meshd.stop()
        assert steps(meshd, "quiet") == []


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Spans of this process, kept in memory for this test."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return kept


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[MeshdProcess, dict[str, str]]]:
    """A meshd and an agent of this process; what its handlers saw as traceparent, by task."""
    seen: dict[str, str] = {}
    with MeshdProcess(tmp_path) as meshd:
        agent = Agent(
            "traced", namespace="default", address=meshd.address, slots=4, state_dir=tmp_path / "state"
        )

        @agent.task("sync")
        def sync(task: TaskContext) -> None:
            seen[task.id] = task.traceparent

        @agent.task("async")
        async def asynchronous(task: TaskContext) -> None:
            seen[task.id] = task.traceparent

        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        yield meshd, seen
        agent.stop(within_s=0.0)
        thread.join(10)
        assert not thread.is_alive()


def by_kind(exporter: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is kind]


async def test_one_trace_from_the_submitter_through_the_handler(
    serving: tuple[MeshdProcess, dict[str, str]], exporter: InMemorySpanExporter
) -> None:
    meshd, seen = serving
    async with Mesh(meshd.address, namespace="default") as mesh:
        with trace.get_tracer("test").start_as_current_span("request") as request:
            await mesh.submit("sync", task_id="t1")
            mixed = [task_spec("async", task_id=name) for name in ("t2", "t3")]
            mixed.append(task_spec("async", task_id="t5", traceparent=OUTSIDE))
            await mesh.submit_many(mixed)
            assert [spec.traceparent for spec in mixed] == ["", "", OUTSIDE], "they are the caller's"
        tasks = [await mesh.wait(name) for name in ("t1", "t2", "t3", "t5")]
        outside = await mesh.submit("sync", task_id="t4", traceparent=OUTSIDE)
        await mesh.wait("t4")
    assert outside.task.spec.traceparent == seen["t4"] == seen["t5"] == OUTSIDE
    trace_id = request.get_span_context().trace_id
    one, batch = by_kind(exporter, SpanKind.PRODUCER)
    assert one.context is not None
    assert batch.context is not None
    assert one.context.trace_id == batch.context.trace_id == trace_id
    parents = {"t1": one.context.span_id, "t2": batch.context.span_id, "t3": batch.context.span_id}
    for task in tasks[:3]:
        name = task.spec.task_id
        assert task.spec.traceparent == seen[name]
        # The flags after it are the tracer's to choose.
        assert task.spec.traceparent.startswith(f"00-{trace_id:032x}-{parents[name]:016x}-")
    handled = {
        str((s.attributes or {})["messaging.message.id"]): s for s in by_kind(exporter, SpanKind.CONSUMER)
    }
    assert handled.keys() == {"t1", "t2", "t3", "t4", "t5"}
    for name, parent_id in parents.items():
        parent = handled[name].parent
        assert parent is not None
        assert (parent.trace_id, parent.span_id) == (trace_id, parent_id)


def test_the_sdk_logs_under_the_same_ids(
    serving: tuple[MeshdProcess, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    meshd, _ = serving
    with caplog.at_level(logging.DEBUG, "agentmesh"), SyncMesh(meshd.address, namespace="default") as mesh:
        mesh.submit("sync", task_id="t1")
        mesh.wait("t1")
    records = [record for record in caplog.records if getattr(record, "task_id", "") == "t1"]
    assert {record.namespace for record in records} == {"default"}  # type: ignore[attr-defined]
    messages = [record.getMessage() for record in records]
    assert "task t1 is submitted" in messages
    begins, done = [m for m in messages if "attempt 1" in m]
    assert begins == "task t1 attempt 1: begins"
    assert done == "task t1 attempt 1: done"
    assert [r.agent_id for r in records if hasattr(r, "agent_id")] == ["traced", "traced"]


async def test_a_malformed_traceparent_is_dropped_and_the_task_runs(
    serving: tuple[MeshdProcess, dict[str, str]],
) -> None:
    meshd, seen = serving
    async with Mesh(meshd.address, namespace="default") as mesh:
        task = (await mesh.submit("sync", task_id="t1", traceparent="00-not-a-trace-01")).task
        assert task.spec.traceparent == ""
        async with asyncio.timeout(10):
            await mesh.wait("t1")
    assert seen["t1"] == ""
