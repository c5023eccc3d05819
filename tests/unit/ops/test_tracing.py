"""Spans of tasks: asked for by OTEL_* variables, one a task, in the submitter's trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.engine.task_steps import steps_of
from meshd.ops import tracing
from tests.unit.domain.world import World

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"


class TracedWorld(World):
    """Hands the steps of every batch to spans that stay in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = tracing.TaskSpans(provider)

    def _release(self, out: Effects) -> list[object]:
        self.spans(steps_of(out.writes))
        return super()._release(out)


def test_a_task_is_one_span_of_its_submitters_trace() -> None:
    world = TracedWorld()
    world.submit("t1", traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
    world.mono += 2
    session, stream = world.agent("a")
    fence = stream.of(f.Assign)[0].fence
    world.send(session, f.Accept(fence))
    assert world.exporter.get_finished_spans() == ()
    world.mono += 1
    world.send(session, f.Done(fence, b""))
    (span,) = world.exporter.get_finished_spans()
    assert span.context is not None
    assert format(span.context.trace_id, "032x") == TRACE_ID
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == PARENT_ID
    assert (span.name, span.status.status_code) == ("task work", StatusCode.UNSET)
    assert (span.start_time, span.end_time) == (100_000_000_000, 103_000_000_000)
    assert [(event.name, event.timestamp) for event in span.events] == [
        ("assigned", 102_000_000_000),
        ("accepted", 102_000_000_000),
    ]
    assert span.attributes is not None
    assert span.attributes["agentmesh.task_id"] == "t1"
    assert span.attributes["agentmesh.agent_id"] == "a"


def test_a_task_without_traceparent_begins_a_trace_and_a_failed_one_is_an_error() -> None:
    world = TracedWorld()
    world.submit("t1", queue_timeout_ms=500)
    world.wait(1)
    (span,) = world.exporter.get_finished_spans()
    assert span.parent is None
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "QUEUE_TIMEOUT"
    assert not span.events


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp_proto_http"),
        ({"OTEL_SERVICE_NAME": "meshd"}, ""),
    ],
)
def test_the_variables_say_whether_there_are_spans(variables: Mapping[str, str], exporter: str) -> None:
    assert tracing._exporter_name(variables) == exporter


def test_without_such_variables_there_are_no_spans() -> None:
    assert tracing.task_spans({}) is None


def test_an_exporter_that_is_not_installed_is_no_reason_not_to_start() -> None:
    assert tracing.task_spans({"OTEL_TRACES_EXPORTER": "nobody-makes-this"}) is None


def test_an_exporter_that_cannot_be_made_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ValueError("authorization=Bearer hunter2")

    plug_in = SimpleNamespace(load=lambda: broken)
    monkeypatch.setattr(tracing, "entry_points", lambda **_: [plug_in])
    with structlog.testing.capture_logs() as logged:
        assert tracing.task_spans({"OTEL_TRACES_EXPORTER": "console"}) is None
    assert [(line["exporter"], line["error"]) for line in logged] == [("console", "ValueError")]


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "100"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1")]
)
def test_variables_that_make_no_sense_are_no_reason_not_to_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with structlog.testing.capture_logs() as logged:
        assert tracing.task_spans({"OTEL_TRACES_EXPORTER": "console"}) is None
    assert [(line["exporter"], line["error"]) for line in logged] == [("console", "ValueError")]


def test_a_span_that_cannot_be_made_ends_the_spans_and_nothing_else() -> None:
    world = TracedWorld()

    def broken(*_: object, **__: object) -> None:
        raise ValueError("hunter2")

    world.spans._tracer.start_span = broken  # type: ignore[method-assign, assignment]
    with structlog.testing.capture_logs() as logged:
        for task_id in ("t1", "t2"):
            world.submit(task_id, queue_timeout_ms=500)
            world.wait(1)
    assert [line["error"] for line in logged] == ["ValueError"]


def test_an_exporter_that_is_installed_is_used() -> None:
    spans = tracing.task_spans({"OTEL_TRACES_EXPORTER": "console"})
    assert spans is not None
    spans.close()


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import meshd.daemon, agentmesh.agent, agentmesh.blocking
from agentmesh import tracing as sdk, task_spec
from meshd.ops import tracing
assert tracing.task_spans({"OTEL_TRACES_EXPORTER": "console"}) is None
spec = task_spec("work")
with sdk.submitting([spec], "default") as (same,):
    assert same is spec
"""


def test_nothing_needs_opentelemetry() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "install the extra [otel]" in done.stdout + done.stderr


def test_nothing_imports_opentelemetry_unasked() -> None:
    code = (
        "import sys, meshd.daemon, agentmesh.agent, agentmesh.blocking; from meshd.ops import tracing;"
        "tracing.task_spans({}); assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
