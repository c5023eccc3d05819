"""Tasks between contract and domain, and the digest by which a repeated submit is recognised."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import blake2b

from agentmesh.v1 import requirements_pb2, task_pb2
from meshd.domain.limits import MAX_TASK_LABELS
from meshd.domain.values import (
    DEFAULT_MAX_LOSSES,
    DEFAULT_PRIORITY,
    DEFAULT_RETRY,
    AttemptState,
    EndedAttempt,
    Failure,
    LabelCondition,
    LabelOperator,
    OutcomeReason,
    Requirements,
    RetryPolicy,
    Strategy,
    Task,
    TaskSpec,
    TaskState,
    requirements_for,
)
from meshd.wire import validate
from meshd.wire.codec.payloads import encoded
from meshd.wire.codec.values import duration, enum, timestamp, write_timestamp

MAX_REQUIRED = 32
MAX_CONDITIONS = 16
DIGEST_BYTES = 16
ON_LOST_REASSIGN = 1

_MAX_CACHED_TYPES = 10_000


def spec_from(message: task_pb2.TaskSpec, new_id: str) -> TaskSpec:
    """Check and convert a task; ``new_id`` is used when it names none. Raises Refusal."""
    payload = message.payload
    kept = encoded(payload, "spec.payload", "payload")
    default = not message.HasField("requirements")
    spec = TaskSpec(
        task_id=validate.task_id(message.task_id, "spec.task_id") if message.task_id else new_id,
        task_type=message.task_type,
        payload=kept,
        digest=b"",
        requirements=_for_type(message.task_type) if default else _requirements(message.requirements),
        default_requirements=default,
    )
    _take_options(message, spec)
    if not payload.media_type.isprintable():
        # A NUL would let it run on into what follows it in the digest: other content, and the same task.
        raise validate.invalid(
            "spec.payload.media_type", "has control characters; name a type such as text/plain"
        )
    spec.digest = digest(spec, payload.inline, payload.media_type)
    return spec


def _take_options(message: task_pb2.TaskSpec, spec: TaskSpec) -> None:
    """Check and take over what most tasks leave out: placement, times, retries, then labels and origin."""
    if message.HasField("priority"):
        spec.priority = int(validate.number(message.priority, 0, 9, "spec.priority"))
    if message.strategy:
        spec.strategy = enum(Strategy, message.strategy, "spec.strategy")
    if message.HasField("timeout"):
        spec.timeout_ms = validate.duration_ms(message.timeout, "spec.timeout")
    if message.HasField("queue_timeout"):
        spec.queue_timeout_ms = validate.duration_ms(message.queue_timeout, "spec.queue_timeout")
    if message.HasField("execution_timeout"):
        spec.execution_timeout_ms = validate.duration_ms(message.execution_timeout, "spec.execution_timeout")
    if message.HasField("retry_policy"):
        spec.retry = _retry(message.retry_policy)
    if message.on_lost not in (0, ON_LOST_REASSIGN):
        raise validate.invalid("spec.on_lost", f"is {message.on_lost}, which is none of REASSIGN")
    if message.HasField("max_losses"):
        spec.max_losses = int(validate.number(message.max_losses, 1, 100, "spec.max_losses"))
    _take_origin(message, spec)


def _take_origin(message: task_pb2.TaskSpec, spec: TaskSpec) -> None:
    if message.labels:
        spec.labels = validate.labels(dict(message.labels), MAX_TASK_LABELS, "spec.labels")
    if message.context_id:
        spec.context_id = validate.text(message.context_id, 128, "spec.context_id")
    if message.parent_task_id:
        spec.parent_task_id = validate.task_id(message.parent_task_id, "spec.parent_task_id")
    if message.traceparent:
        spec.traceparent = validate.traceparent(message.traceparent)


def digest(spec: TaskSpec, inline: bytes, media_type: str) -> bytes:
    """Return 16 bytes of BLAKE2b over type, media type, input, and those other fields that differ from their default.

    Left out: task id, timeout, traceparent and the payload's metadata, which may differ between repetitions.
    """
    other = (
        spec.priority,
        int(spec.strategy),
        spec.queue_timeout_ms,
        spec.execution_timeout_ms,
        tuple(spec.retry),
        spec.max_losses,
        spec.context_id,
        spec.parent_task_id,
    )
    head = f"{spec.task_type}\0{media_type}\0{'' if other == _DEFAULTS else other!r}\0"
    if spec.labels:
        head += repr(sorted(spec.labels.items()))
    if not spec.default_requirements:
        required = spec.requirements
        head += repr(
            (
                sorted(required.capabilities),
                [(c.label, int(c.operator), c.values) for c in required.labels],
                sorted(required.preferred_capabilities),
                [(c.label, int(c.operator), c.values) for c in required.preferred_labels],
            )
        )
    hasher = blake2b(head.encode(), digest_size=DIGEST_BYTES)
    hasher.update(b"\0" + inline)
    return hasher.digest()


_DEFAULTS = (
    DEFAULT_PRIORITY,
    int(Strategy.LEAST_LOADED),
    0,
    0,
    tuple(DEFAULT_RETRY),
    DEFAULT_MAX_LOSSES,
    "",
    "",
)


@lru_cache(_MAX_CACHED_TYPES)
def _for_type(task_type: str) -> Requirements:
    return requirements_for(validate.dotted(task_type, "spec.task_type"))


def _requirements(message: requirements_pb2.Requirements) -> Requirements:
    field = "spec.requirements"
    return Requirements(
        validate.capabilities(
            message.required_capabilities,
            MAX_REQUIRED,
            f"{field}.required_capabilities",
        ),
        label_conditions(message.required_labels, f"{field}.required_labels"),
        validate.capabilities(
            message.preferred_capabilities,
            MAX_REQUIRED,
            f"{field}.preferred_capabilities",
        ),
        label_conditions(message.preferred_labels, f"{field}.preferred_labels"),
    )


_COMPARISONS = (LabelOperator.GREATER_THAN, LabelOperator.LESS_THAN)
_BARE = (LabelOperator.EXISTS, LabelOperator.NOT_EXISTS)


def label_conditions(
    messages: Collection[requirements_pb2.LabelCondition], field: str
) -> tuple[LabelCondition, ...]:
    """Check and convert conditions on labels. Raises Refusal."""
    if len(messages) > MAX_CONDITIONS:
        raise validate.invalid(field, f"has {len(messages)} entries; at most {MAX_CONDITIONS} are allowed")
    return tuple(_condition(message, field) for message in messages)


def _condition(message: requirements_pb2.LabelCondition, field: str) -> LabelCondition:
    operator = enum(LabelOperator, message.operator, f"{field}.operator")
    values = tuple(validate.text(v, 256, f"{field}.values") for v in message.values)
    if operator in _COMPARISONS and len(values) != 1:
        raise validate.invalid(f"{field}.values", f"needs exactly one number for {operator.name}")
    if operator in _BARE and values:
        raise validate.invalid(f"{field}.values", f"must be empty for {operator.name}")
    if len(values) > MAX_REQUIRED:
        raise validate.invalid(
            f"{field}.values",
            f"has {len(values)} entries; at most {MAX_REQUIRED} are allowed",
        )
    return LabelCondition(validate.text(message.label, 63, f"{field}.label"), operator, values)


def _retry(message: task_pb2.RetryPolicy) -> RetryPolicy:
    policy = DEFAULT_RETRY
    field = "spec.retry_policy"
    if message.HasField("max_retries"):
        policy = policy._replace(
            max_retries=int(validate.number(message.max_retries, 0, 100, f"{field}.max_retries"))
        )
    if message.HasField("initial_backoff"):
        policy = policy._replace(
            initial_backoff_ms=validate.duration_ms(message.initial_backoff, f"{field}.initial_backoff")
        )
    if message.HasField("multiplier"):
        policy = policy._replace(multiplier=validate.number(message.multiplier, 1, 10, f"{field}.multiplier"))
    if message.HasField("max_backoff"):
        policy = policy._replace(
            max_backoff_ms=validate.duration_ms(message.max_backoff, f"{field}.max_backoff")
        )
    return policy


# ---- domain to contract


def task_to(task: Task, payload: bytes = b"", output: bytes = b"") -> task_pb2.Task:
    """Return the message of a task; ``payload`` and ``output`` are encoded, empty: left out."""
    message = task_pb2.Task()
    write_task(message, task, payload, output)
    return message


def write_task(message: task_pb2.Task, task: Task, payload: bytes = b"", output: bytes = b"") -> None:
    """Write a task into its empty message, which may be part of another: that spares a copy, and each takes microseconds."""
    message.namespace = task.namespace
    _write_spec(message.spec, task.spec, payload)
    message.state = int(task.state)  # type: ignore[assignment]
    message.outcome_reason = int(task.outcome)  # type: ignore[assignment]
    message.generation = task.generation
    message.failure_count = task.failures
    message.loss_count = task.losses
    write_timestamp(message.submit_time, task.submit_ms)
    message.submitter = task.submitter
    if task.state is TaskState.WAITING:
        message.wait_reasons.append(task_pb2.WAIT_REASON_RETRY)
        write_timestamp(message.next_attempt_time, task.next_attempt_ms)
    if task.attempt:
        attempt = message.attempt
        attempt.number = task.attempt
        attempt.agent_id = task.agent_id
        attempt.state = int(task.attempt_state)  # type: ignore[assignment]
        attempt.fence_number = task.fence_number
        write_timestamp(attempt.assign_time, task.assign_ms)
        if task.attempt_state >= AttemptState.SUCCEEDED and task.end_ms:
            write_timestamp(attempt.end_time, task.end_ms)
    if output:
        message.output.ParseFromString(output)
    if task.failure is not None and task.outcome is not OutcomeReason.COMPLETED:
        message.failure.CopyFrom(failure_to(task.failure))
    if task.end_ms:
        write_timestamp(message.end_time, task.end_ms)
    if task.cancel_ms:
        write_timestamp(message.cancel_request_time, task.cancel_ms)
    if task.progress is not None and not task.terminal:
        # Without its text, which is part of a result: not everybody may read it who may see the task.
        message.progress.CopyFrom(progress_to(*task.progress[:-1]))


def _write_spec(message: task_pb2.TaskSpec, spec: TaskSpec, payload: bytes) -> None:
    message.task_id = spec.task_id
    message.task_type = spec.task_type
    message.priority = spec.priority
    message.strategy = int(spec.strategy)  # type: ignore[assignment]
    message.context_id = spec.context_id
    message.parent_task_id = spec.parent_task_id
    message.traceparent = spec.traceparent
    if spec.labels:
        message.labels.update(spec.labels)
    if payload:
        message.payload.ParseFromString(payload)
    if not spec.default_requirements:
        required = spec.requirements
        message.requirements.CopyFrom(
            requirements_pb2.Requirements(
                required_capabilities=sorted(required.capabilities),
                required_labels=[label_condition_to(c) for c in required.labels],
                preferred_capabilities=sorted(required.preferred_capabilities),
                preferred_labels=[label_condition_to(c) for c in required.preferred_labels],
            )
        )
    if spec.timeout_ms:
        message.timeout.CopyFrom(duration(spec.timeout_ms))
    if spec.queue_timeout_ms:
        message.queue_timeout.CopyFrom(duration(spec.queue_timeout_ms))
    if spec.execution_timeout_ms:
        message.execution_timeout.CopyFrom(duration(spec.execution_timeout_ms))
    if spec.retry != DEFAULT_RETRY:
        message.retry_policy.CopyFrom(
            task_pb2.RetryPolicy(
                max_retries=spec.retry.max_retries,
                initial_backoff=duration(spec.retry.initial_backoff_ms),
                multiplier=spec.retry.multiplier,
                max_backoff=duration(spec.retry.max_backoff_ms),
            )
        )
    if spec.max_losses != DEFAULT_MAX_LOSSES:
        message.max_losses = spec.max_losses


def label_condition_to(condition: LabelCondition) -> requirements_pb2.LabelCondition:
    """Return the message of a condition on a label."""
    return requirements_pb2.LabelCondition(
        label=condition.label,
        operator=int(condition.operator),  # type: ignore[arg-type]
        values=condition.values,
    )


def failure_to(failure: Failure) -> task_pb2.Failure:
    """Return the message of a failure."""
    return task_pb2.Failure(type=failure.type, message=failure.message, retryable=failure.retryable)


def progress_to(attempt: int, seq: int, fraction: float | None, message: str = "") -> task_pb2.ProgressReport:
    """Return the message of progress."""
    return task_pb2.ProgressReport(attempt=attempt, seq=seq, fraction=fraction, message=message)


def ended_attempt_to(ended: EndedAttempt) -> task_pb2.Attempt:
    """Return the message of an attempt that is over."""
    message = task_pb2.Attempt(
        number=ended.number,
        agent_id=ended.agent_id,
        state=int(ended.state),  # type: ignore[arg-type]
        fence_number=ended.fence_number,
        assign_time=timestamp(ended.assign_ms),
        end_time=timestamp(ended.end_ms),
    )
    if ended.failure is not None:
        message.failure.CopyFrom(failure_to(ended.failure))
    return message
