"""Rows and domain objects, both directions side by side. Column order is that of ``schema``.

A task's rarely used fields go together into the JSON column ``options``, which is NULL for an ordinary task.
"""

from __future__ import annotations

import json
from typing import Any

from meshd.domain.values import (
    DEFAULT_MAX_LOSSES,
    DEFAULT_RETRY,
    Agent,
    AgentSpec,
    AgentType,
    AttemptState,
    EndedAttempt,
    Failure,
    Health,
    LabelCondition,
    LabelOperator,
    OutcomeReason,
    Requirements,
    RetryPolicy,
    Session,
    Strategy,
    Task,
    TaskSpec,
    TaskState,
)

Row = tuple[Any, ...]

_SIGN = 1 << 63
_WRAP = 1 << 64


def task_to_row(task: Task) -> Row:
    """Return a row of ``tasks``."""
    spec = task.spec
    incarnation = task.incarnation
    return (
        task.key,
        task.namespace,
        spec.task_id,
        spec.task_type,
        spec.digest,
        spec.priority,
        _options_to_text(spec),
        # Databases know signed numbers only.
        incarnation if incarnation < _SIGN else incarnation - _WRAP,
        task.submit_ms,
        task.submitter,
        task.payload_bytes,
        task.deadline_ms,
        task.queue_deadline_ms,
        *task_state(task),
    )


def task_state(task: Task) -> Row:
    """Return the changing part of a row of ``tasks``."""
    return (
        task.state,
        task.generation,
        task.outcome,
        task.end_ms,
        task.failures,
        task.losses,
        task.cancel_ms,
        task.cancel_grace_ms,
        task.cancel_cause,
        task.next_attempt_ms,
        failure_to_text(task.failure),
        task.attempt,
        task.attempt_state,
        task.agent_id,
        task.session_id,
        task.fence_number,
        task.assign_ms,
    )


def task_from_row(row: Row) -> Task:
    """Return the task of a row, without payload."""
    spec = TaskSpec(row[2], row[3], b"", row[4], _default_requirements(row[3]), priority=row[5])
    if row[6] is not None:
        _options_from_text(spec, row[6])
    incarnation = row[7]
    return Task(
        key=row[0],
        namespace=row[1],
        spec=spec,
        incarnation=incarnation if incarnation >= 0 else incarnation + _WRAP,
        state=TaskState(row[13]),
        submit_ms=row[8],
        submitter=row[9],
        payload_bytes=row[10],
        deadline_ms=row[11],
        queue_deadline_ms=row[12],
        generation=row[14],
        outcome=OutcomeReason(row[15]),
        end_ms=row[16],
        failures=row[17],
        losses=row[18],
        cancel_ms=row[19],
        cancel_grace_ms=row[20],
        cancel_cause=OutcomeReason(row[21]),
        next_attempt_ms=row[22],
        failure=failure_from_text(row[23]),
        attempt=row[24],
        attempt_state=AttemptState(row[25]),
        agent_id=row[26],
        session_id=row[27],
        fence_number=row[28],
        assign_ms=row[29],
    )


def _default_requirements(task_type: str) -> Requirements:
    return Requirements(frozenset((task_type,)))


def _options_to_text(spec: TaskSpec) -> str | None:
    options: dict[str, Any] = {}
    if not spec.default_requirements:
        required = spec.requirements
        options["requirements"] = [
            sorted(required.capabilities),
            required.labels,
            sorted(required.preferred_capabilities),
            required.preferred_labels,
        ]
    if spec.strategy is not Strategy.LEAST_LOADED:
        options["strategy"] = spec.strategy
    if spec.retry is not DEFAULT_RETRY and spec.retry != DEFAULT_RETRY:
        options["retry"] = spec.retry
    if spec.max_losses != DEFAULT_MAX_LOSSES:
        options["max_losses"] = spec.max_losses
    if spec.labels:
        options["labels"] = spec.labels
    for name in _PLAIN:
        value = getattr(spec, name)
        if value:
            options[name] = value
    return json.dumps(options) if options else None


_PLAIN = ("timeout_ms", "queue_timeout_ms", "execution_timeout_ms", "context_id", "parent_task_id", "traceparent")


def _options_from_text(spec: TaskSpec, text: str) -> None:
    options = json.loads(text)
    if "requirements" in options:
        capabilities, labels, preferred, preferred_labels = options["requirements"]
        spec.default_requirements = False
        spec.requirements = Requirements(
            frozenset(capabilities), _conditions(labels), frozenset(preferred), _conditions(preferred_labels)
        )
    if "strategy" in options:
        spec.strategy = Strategy(options["strategy"])
    if "retry" in options:
        spec.retry = RetryPolicy(*options["retry"])
    spec.max_losses = options.get("max_losses", DEFAULT_MAX_LOSSES)
    spec.labels = options.get("labels")
    for name in _PLAIN:
        if name in options:
            setattr(spec, name, options[name])


def _conditions(values: list[Any]) -> tuple[LabelCondition, ...]:
    return tuple(LabelCondition(label, LabelOperator(operator), tuple(of)) for label, operator, of in values)


def failure_to_text(failure: Failure | None) -> str | None:
    """Return the JSON of a failure."""
    return None if failure is None else json.dumps(failure)


def failure_from_text(text: str | None) -> Failure | None:
    """Return the failure of a JSON text."""
    return None if text is None else Failure(*json.loads(text))


def attempt_to_row(ended: EndedAttempt) -> Row:
    """Return a row of ``attempts``."""
    return (*ended[:7], failure_to_text(ended.failure))


def attempt_from_row(row: Row) -> EndedAttempt:
    """Return the ended attempt of a row."""
    return EndedAttempt(
        row[0], row[1], row[2], AttemptState(row[3]), row[4], row[5], row[6], failure_from_text(row[7])
    )


def agent_to_row(agent: Agent) -> Row:
    """Return a row of ``agents``, with the session it has."""
    spec = agent.spec
    session = agent.session
    text = json.dumps(
        {
            "type": spec.type,
            "name": spec.name,
            "capabilities": sorted(spec.capabilities),
            "labels": spec.labels,
            "host": spec.host,
            "port": spec.port,
            "dns_name": spec.dns_name,
            "slots": spec.slots,
            "lease_ttl_ms": spec.lease_ttl_ms,
            "disconnected_grace_ms": spec.disconnected_grace_ms,
        }
    )
    head = (
        agent.namespace,
        spec.agent_id,
        text,
        agent.create_ms,
        agent.health,
        agent.health_ms,
        agent.health_cause,
        agent.last_seen_ms,
    )
    if session is None:
        return (*head, None, None, None, None, None)
    return (
        *head,
        session.session_id,
        session.resume_hash,
        session.key_hash,
        session.slots,
        session.start_ms,
    )


def agent_from_row(row: Row) -> Agent:
    """Return the agent of a row, with its session when that had not ended."""
    fields = json.loads(row[2])
    fields["type"] = AgentType(fields["type"])
    fields["capabilities"] = frozenset(fields["capabilities"])
    agent = Agent(
        row[0], AgentSpec(row[1], **fields), row[3], Health(row[4]), row[5], row[6], last_seen_ms=row[7]
    )
    if row[8] is not None:
        agent.session = Session(
            row[8], agent, row[9], row[10], slots=row[11], start_ms=row[12], ttl_only=True
        )
    return agent
