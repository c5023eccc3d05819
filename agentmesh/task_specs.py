"""Task specs from plain values, and batches of them cut to fit into messages.

Rule: a batch is cut by bytes before count; an item that fits into no message is refused here, with both numbers.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from agentmesh.connection import MAX_MESSAGE_BYTES
from agentmesh.errors import InvalidRequest, TooLarge
from agentmesh.payloads import PayloadLike, encode_payload
from agentmesh.v1.requirements_pb2 import Requirements
from agentmesh.v1.task_pb2 import PlacementStrategy, RetryPolicy, TaskSpec

#: Most specs in one SubmitTasks.
MAX_BATCH_SPECS = 5_000
#: Most bytes of specs in one SubmitTasks; the rest is for the namespace and the framing.
MAX_BATCH_BYTES = MAX_MESSAGE_BYTES - 1_024

PRIORITIES: Mapping[str, int] = {"low": 2, "normal": 5, "high": 7, "critical": 9}


def task_spec(
    task_type: str,
    payload: PayloadLike = None,
    *,
    task_id: str | None = None,
    priority: int | str | None = None,
    timeout_s: float | None = None,
    queue_timeout_s: float | None = None,
    execution_timeout_s: float | None = None,
    retries: int | RetryPolicy | None = None,
    requirements: Requirements | None = None,
    labels: Mapping[str, str] | None = None,
    context_id: str = "",
    parent_task_id: str = "",
    strategy: PlacementStrategy.ValueType | str | None = None,
    max_losses: int | None = None,
    traceparent: str = "",
) -> TaskSpec:
    """What a caller asks for, as the contract writes it.

    Without `task_id` a random one is chosen, which makes submitting safe to repeat. `priority` is 0 to 9 or low,
    normal, high, critical. `timeout_s` runs from submit to the end, `queue_timeout_s` until an agent has taken the
    task, `execution_timeout_s` per attempt. `retries` is a number or a whole policy; `strategy` a value or its name,
    such as "round_robin". Raises InvalidRequest and TooLarge.
    """
    return TaskSpec(
        task_id=task_id or f"t-{uuid.uuid4().hex}",
        task_type=task_type,
        payload=encode_payload(payload),
        requirements=requirements,
        priority=_priority(priority),
        strategy=_strategy(strategy),
        timeout=duration(timeout_s),
        queue_timeout=duration(queue_timeout_s),
        execution_timeout=duration(execution_timeout_s),
        retry_policy=RetryPolicy(max_retries=retries) if isinstance(retries, int) else retries,
        max_losses=max_losses,
        labels=labels,
        context_id=context_id,
        parent_task_id=parent_task_id,
        traceparent=traceparent,
    )


def duration(seconds: float | None) -> Duration | None:
    """Seconds as the contract writes them; None stays absent. Raises InvalidRequest."""
    if seconds is None:
        return None
    message = Duration()
    try:
        message.FromTimedelta(timedelta(seconds=seconds))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{seconds} is no number of seconds: where there is no limit, pass none"
        ) from None
    return message


def batches(specs: Iterable[TaskSpec]) -> Iterator[list[TaskSpec]]:
    """Cuts specs, in order, into lists that each fit into one SubmitTasks."""
    batch: list[TaskSpec] = []
    batch_bytes = 0
    for spec in specs:
        item_bytes = item_size_bytes(spec)
        if batch and (batch_bytes + item_bytes > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_SPECS):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(spec)
        batch_bytes += item_bytes
    if batch:
        yield batch


def refusal_of(spec: TaskSpec) -> TooLarge | None:
    """Why a spec fits into no message; None when it fits."""
    size_bytes, limit_bytes = item_size_bytes(spec), MAX_BATCH_BYTES
    if size_bytes <= limit_bytes:
        return None
    return TooLarge(
        f"task {spec.task_id!r} is {size_bytes} bytes with all its fields, a message holds {limit_bytes}",
        reason="TOO_LARGE",
        metadata={"size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes)},
    )


def item_size_bytes(spec: TaskSpec) -> int:
    """Bytes a spec takes in a batch: itself, its tag and its length."""
    return spec.ByteSize() + 6


def _priority(value: int | str | None) -> int | None:
    if not isinstance(value, str):
        return value
    if value not in PRIORITIES:
        raise InvalidRequest(f"priority {value!r} is none of {', '.join(PRIORITIES)}, nor 0 to 9")
    return PRIORITIES[value]


def _strategy(value: PlacementStrategy.ValueType | str | None) -> PlacementStrategy.ValueType:
    if value is None:
        return PlacementStrategy.PLACEMENT_STRATEGY_UNSPECIFIED
    if not isinstance(value, str):
        return value
    known = [name.removeprefix("PLACEMENT_STRATEGY_").lower() for name in PlacementStrategy.keys()[1:]]
    if value.lower() not in known:
        raise InvalidRequest(f"strategy {value!r} is none of {', '.join(known)}")
    return PlacementStrategy.Value(f"PLACEMENT_STRATEGY_{value.upper()}")
