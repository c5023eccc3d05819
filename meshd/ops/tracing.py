"""Spans of tasks by OpenTelemetry: one for a task's whole life, made when it has ended, in the submitter's trace.

Rule: off unless OTEL_* variables ask for it, and then opentelemetry is imported, not before. What it does is theirs to
say: exporter, endpoint, sampler and resource come from the variables that its SDK reads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import structlog

from meshd.domain.values import Task, TaskState
from meshd.ports.task_steps import Step, TaskStep

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_TIMEOUT_S: Final = 1.0
NS_PER_MS: Final = 1_000_000

log = structlog.get_logger()


class TaskSpans:
    """Makes a span of each task that ends (a StepListener)."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("meshd")
        self._failed = False

    def __call__(self, steps: Sequence[TaskStep]) -> None:
        """Take note of a batch; no plug-in can keep from its callers what is durable."""
        if self._failed:
            return
        try:
            for step in steps:
                if step.step is Step.ENDED:
                    self._record(step.task)
        except Exception as error:  # noqa: BLE001 - whatever a sampler raises
            self._failed = True
            log.warning("a span cannot be made; meshd goes on without spans", error=type(error).__name__)

    def close(self) -> None:
        """Send what is left; give up after a second, as the collector may be away."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(FLUSH_TIMEOUT_S)

    def _record(self, task: Task) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - only where it is asked for
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        traceparent = task.spec.traceparent
        carrier = {"traceparent": traceparent} if traceparent else {}
        span = self._tracer.start_span(
            f"task {task.spec.task_type}",
            context=TraceContextTextMapPropagator().extract(carrier),
            start_time=task.submit_ms * NS_PER_MS,
            attributes={
                "agentmesh.namespace": task.namespace,
                "agentmesh.task_id": task.spec.task_id,
                "agentmesh.state": task.state.name,
                "agentmesh.reason": task.outcome.name,
                "agentmesh.attempt": task.attempt,
                "agentmesh.losses": task.losses,
                "agentmesh.failures": task.failures,
                "agentmesh.agent_id": task.agent_id,
            },
        )
        if task.attempt:
            span.add_event("assigned", timestamp=task.assign_ms * NS_PER_MS)
        if task.accept_ms:
            span.add_event("accepted", timestamp=task.accept_ms * NS_PER_MS)
        if task.state in (TaskState.FAILED, TaskState.EXPIRED):
            span.set_status(StatusCode.ERROR, task.outcome.name)
        span.end(end_time=task.end_ms * NS_PER_MS)


def task_spans(environment: Mapping[str, str]) -> TaskSpans | None:
    """Return what records spans, or None when the variables do not ask for it or it cannot be had."""
    name = _exporter_name(environment)
    if not name:
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - only where it is asked for
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("OTEL_* variables ask for spans: install the extra [otel]; meshd goes on without")
        return None
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        log.warning(
            "no package with this exporter of spans is installed; meshd goes on without", exporter=name
        )
        return None
    try:
        exporter: Any = found[0].load()()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, whose text may repeat headers
        log.warning(
            "spans cannot be made as the OTEL_* variables ask; meshd goes on without",
            exporter=name,
            error=type(error).__name__,
        )
        return None
    return TaskSpans(provider)


def _exporter_name(environment: Mapping[str, str]) -> str:
    """Return the entry point of the exporter that the variables name; "" for none."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    endpoint = any(
        environment.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    name = environment.get("OTEL_TRACES_EXPORTER", "") or ("otlp" if endpoint else "none")
    if name == "otlp":
        protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
        )
        return "otlp_proto_http" if protocol.startswith("http") else "otlp_proto_grpc"
    return "" if name == "none" else name
