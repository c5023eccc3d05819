"""Spans by OpenTelemetry, for programs that use it: one around a submit, one around each run of a handler.

Rule: nothing here imports opentelemetry. A program that traces has imported it itself, so its absence among the loaded
modules means that nobody traces, and costs one look into a dict.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentmesh.v1.task_pb2 import TaskSpec

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from agentmesh.v1.session_pb2 import Assign

_NAME = "agentmesh"
_SYSTEM = {"messaging.system": "agentmesh"}


def is_on() -> bool:
    """True when the program has loaded OpenTelemetry; whether it records is for that to say."""
    return "opentelemetry.trace" in sys.modules


@contextmanager
def submitting(specs: Iterable[TaskSpec], namespace: str) -> Iterator[list[TaskSpec]]:
    """Yields the specs with the traceparent of a PRODUCER span in which they are submitted.

    A spec that brings a traceparent keeps it. Specs are copied before they are changed. Without OpenTelemetry, and
    where no span is recorded or continued, they come back as they are.
    """
    given = list(specs)
    if not is_on() or all(spec.traceparent for spec in given):
        yield given
        return
    from opentelemetry.trace import SpanKind

    attributes: dict[str, Any] = {
        **_SYSTEM,
        "messaging.operation.type": "send",
        "agentmesh.namespace": namespace,
    }
    if len(given) == 1:
        attributes["messaging.message.id"] = given[0].task_id
    else:
        attributes["messaging.batch.message_count"] = len(given)
    types = {spec.task_type for spec in given}
    name = f"submit {types.pop()}" if len(types) == 1 else "submit"
    with _tracer().start_as_current_span(name, kind=SpanKind.PRODUCER, attributes=attributes):
        traceparent = _current_traceparent()
        yield [_with_traceparent(spec, traceparent) for spec in given] if traceparent else given


@contextmanager
def handling(assign: Assign, namespace: str, agent_id: str) -> Iterator[None]:
    """Runs a handler in a CONSUMER span that continues the submitter's trace."""
    if not is_on():
        yield
        return
    from opentelemetry.trace import SpanKind

    attributes: dict[str, Any] = {
        **_SYSTEM,
        "messaging.operation.type": "process",
        "messaging.message.id": assign.task_id,
        "agentmesh.namespace": namespace,
        "agentmesh.agent_id": agent_id,
        "agentmesh.attempt": assign.attempt,
    }
    with _tracer().start_as_current_span(
        f"process {assign.task_type}",
        context=_context_of(assign.traceparent),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
    ):
        yield


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer(_NAME)


def _current_traceparent() -> str:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def _context_of(traceparent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: Mapping[str, str] = {"traceparent": traceparent} if traceparent else {}
    # An empty context, not the current one: a handler belongs to its submitter's trace, or to none.
    return TraceContextTextMapPropagator().extract(carrier, context=Context())


def _with_traceparent(spec: TaskSpec, traceparent: str) -> TaskSpec:
    if spec.traceparent:
        return spec
    traced = TaskSpec()
    traced.CopyFrom(spec)
    traced.traceparent = traceparent
    return traced
