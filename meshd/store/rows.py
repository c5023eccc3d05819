"""Rows and what they mean: each kind's two directions side by side.

Rule: a row is a tuple in the order of its table's columns; for every kind, reading a written row gives the same value
back (tests/property/store). What is not durable starts as at birth. ``task_to_row`` and ``task_changes`` run on the event
loop for every task: they build one tuple, and JSON only where a task asks for something unusual.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from sys import intern
from typing import Any, Final

from meshd.domain.drains import AgentSelector, Drain
from meshd.domain.records import AuditRecord, IdentityRecord, JoinTokenRecord
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
    requirements_for,
)
from meshd.store.compiled import Row

SIGN_BIT: Final = 1 << 63
LEAST_LOADED: Final = Strategy.LEAST_LOADED

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_decode = json.JSONDecoder().decode


# ---- tasks -------------------------------------------------------------------------------------------------------

CHANGING_COLUMNS: Final = 17
"""How many columns of ``tasks``, right after the key, change in a task's life."""


def task_changes(task: Task) -> Row:
    """Return the key and what changes."""
    # Plus turns an enum into the plain number that the driver binds at once.
    return (
        task.key,
        +task.state,
        task.generation,
        +task.outcome,
        task.end_ms,
        task.failures,
        task.losses,
        task.cancel_ms,
        task.cancel_grace_ms,
        +task.cancel_cause,
        task.next_attempt_ms,
        "" if task.failure is None else _encode(task.failure),
        task.attempt,
        +task.attempt_state,
        task.agent_id,
        task.session_id,
        task.fence_number,
        task.assign_ms,
    )


def task_to_row(task: Task) -> Row:
    """Return the whole row, for a new task."""
    spec = task.spec
    incarnation = task.incarnation
    return (
        *task_changes(task),
        task.namespace,
        spec.task_id,
        spec.task_type,
        spec.digest,
        incarnation if incarnation < SIGN_BIT else incarnation - 2 * SIGN_BIT,
        spec.priority,
        task.submit_ms,
        task.submitter,
        task.payload_bytes,
        task.deadline_ms,
        task.queue_deadline_ms,
        spec.traceparent,
        _options(spec),
    )


def task_from_row(row: Row) -> Task:
    """Return the task of a row, without its payload."""
    (namespace, _, _, _, incarnation, _, submit_ms, submitter) = row[18:26]
    (payload_bytes, deadline_ms, queue_deadline_ms) = row[26:29]
    task = Task(
        key=row[0],
        namespace=intern(namespace),
        spec=_spec_from(row),
        incarnation=incarnation if incarnation >= 0 else incarnation + 2 * SIGN_BIT,
        state=TaskState.QUEUED,
        submit_ms=submit_ms,
        submitter=intern(submitter),
        payload_bytes=payload_bytes,
        deadline_ms=deadline_ms,
        queue_deadline_ms=queue_deadline_ms,
    )
    change_task(task, row)
    return task


def change_task(task: Task, row: Row) -> None:
    """Give a task what a row of ``task_changes``, or a whole one, says of it."""
    (_, state, generation, outcome, end_ms, failures, losses, cancel_ms, cancel_grace_ms) = row[:9]
    (cancel_cause, next_attempt_ms, failure, attempt, attempt_state, agent_id, session_id) = row[9:16]
    (fence_number, assign_ms) = row[16:18]
    task.state = _TASK_STATES[state]
    task.generation = generation
    task.outcome = _REASONS[outcome]
    task.end_ms = end_ms
    task.failures = failures
    task.losses = losses
    task.cancel_ms = cancel_ms
    task.cancel_grace_ms = cancel_grace_ms
    task.cancel_cause = _REASONS[cancel_cause]
    task.next_attempt_ms = next_attempt_ms
    task.failure = _failure_from(failure)
    task.attempt = attempt
    task.attempt_state = _ATTEMPT_STATES[attempt_state]
    task.agent_id = agent_id
    task.session_id = session_id
    task.fence_number = fence_number
    task.assign_ms = assign_ms


# To look a member up takes a fifth of the time of calling its enum, and a start reads a million tasks.
_TASK_STATES: Final[dict[int, TaskState]] = {each.value: each for each in TaskState}
_ATTEMPT_STATES: Final[dict[int, AttemptState]] = {each.value: each for each in AttemptState}
_REASONS: Final[dict[int, OutcomeReason]] = {each.value: each for each in OutcomeReason}


def _spec_from(row: Row) -> TaskSpec:
    (_, task_id, task_type, digest, _, priority) = row[18:24]
    (traceparent, options) = row[29:]
    spec = TaskSpec(
        task_id=task_id,
        task_type=intern(task_type),
        payload=b"",
        digest=digest,
        requirements=requirements_for(task_type),
        priority=priority,
        traceparent=traceparent,
    )
    if options:
        _options_into(options, spec)
    return spec


def _options(spec: TaskSpec) -> str:
    """Return what few tasks ask for, or "" when this one asks for none of it."""
    if (
        spec.default_requirements
        and spec.strategy == LEAST_LOADED
        and spec.labels is None
        and spec.retry == DEFAULT_RETRY
        and spec.max_losses == DEFAULT_MAX_LOSSES
        and not (spec.timeout_ms or spec.queue_timeout_ms or spec.execution_timeout_ms)
        and not (spec.context_id or spec.parent_task_id)
    ):
        return ""
    options: dict[str, Any] = {}
    if not spec.default_requirements:
        wanted = spec.requirements
        options["requirements"] = [
            sorted(wanted.capabilities),
            wanted.labels,
            sorted(wanted.preferred_capabilities),
            wanted.preferred_labels,
        ]
    if spec.retry != DEFAULT_RETRY:
        options["retry"] = spec.retry
    for name, default in _PLAIN_OPTIONS.items():
        value = getattr(spec, name)
        if value != default:
            options[name] = value
    return _encode(options)


_PLAIN_OPTIONS: Final = {
    "strategy": LEAST_LOADED,
    "timeout_ms": 0,
    "queue_timeout_ms": 0,
    "execution_timeout_ms": 0,
    "max_losses": DEFAULT_MAX_LOSSES,
    "labels": None,
    "context_id": "",
    "parent_task_id": "",
}
"""Fields of a spec whose value is its own JSON, with their defaults."""


def _options_into(text: str, spec: TaskSpec) -> None:
    options = _decode(text)
    wanted = options.pop("requirements", None)
    if wanted is not None:
        capabilities, labels, preferred_capabilities, preferred_labels = wanted
        spec.default_requirements = False
        spec.requirements = Requirements(
            frozenset(capabilities),
            _conditions_from(labels),
            frozenset(preferred_capabilities),
            _conditions_from(preferred_labels),
        )
    if "retry" in options:
        spec.retry = RetryPolicy(*options.pop("retry"))
    if "strategy" in options:
        spec.strategy = Strategy(options.pop("strategy"))
    for name, value in options.items():
        setattr(spec, name, value)


def _conditions_from(conditions: Iterable[list[Any]]) -> tuple[LabelCondition, ...]:
    return tuple(
        LabelCondition(label, LabelOperator(operator), tuple(values))
        for label, operator, values in conditions
    )


# ---- attempts ----------------------------------------------------------------------------------------------------


def attempt_to_row(attempt: EndedAttempt) -> Row:
    """Return the row of an attempt that is over."""
    task_key, number, agent_id, state, fence_number, assign_ms, end_ms, failure = attempt
    failure_json = "" if failure is None else _encode(failure)
    return (task_key, number, agent_id, +state, fence_number, assign_ms, end_ms, failure_json)


def attempt_from_row(row: Row) -> EndedAttempt:
    """Return the attempt of a row."""
    task_key, number, agent_id, state, fence_number, assign_ms, end_ms, failure = row
    attempt_state = AttemptState(state)
    return EndedAttempt(
        task_key, number, agent_id, attempt_state, fence_number, assign_ms, end_ms, _failure_from(failure)
    )


def _failure_from(text: str) -> Failure | None:
    return Failure(*_decode(text)) if text else None


# ---- agents and their sessions -----------------------------------------------------------------------------------


def agent_to_row(agent: Agent) -> Row:
    """Return the row of an agent and its session."""
    spec = agent.spec
    session = agent.session
    return (
        agent.namespace,
        spec.agent_id,
        +spec.type,
        spec.name,
        _encode(sorted(spec.capabilities)),
        _encode(spec.labels),
        spec.host,
        spec.port,
        spec.dns_name,
        spec.slots,
        spec.lease_ttl_ms,
        spec.disconnected_grace_ms,
        agent.create_ms,
        +agent.health,
        agent.health_ms,
        agent.health_cause,
        agent.revision,
        agent.last_seen_ms,
        agent.succeeded,
        agent.failed,
        agent.lost,
        *(
            (session.session_id, session.resume_hash, session.key_hash, session.slots, session.start_ms)
            if session is not None
            else ("", b"", b"", 0, 0)
        ),
    )


def agent_from_row(row: Row) -> Agent:
    """Return the agent of a row; its session, if it has not ended, holds nothing and goes by its TTL alone."""
    (namespace, agent_id, type_, name, capabilities, labels, host, port, dns_name, slots) = row[:10]
    (
        lease_ttl_ms,
        disconnected_grace_ms,
        create_ms,
        health,
        health_ms,
        health_cause,
        revision,
        last_seen_ms,
    ) = row[10:18]
    (succeeded, failed, lost, session_id, resume_hash, key_hash, session_slots, session_start_ms) = row[18:]
    spec = AgentSpec(
        agent_id=agent_id,
        type=AgentType(type_),
        name=name,
        capabilities=frozenset(_decode(capabilities)),
        labels=_decode(labels),
        host=host,
        port=port,
        dns_name=dns_name,
        slots=slots,
        lease_ttl_ms=lease_ttl_ms,
        disconnected_grace_ms=disconnected_grace_ms,
    )
    agent = Agent(
        namespace=intern(namespace),
        spec=spec,
        create_ms=create_ms,
        health=Health(health),
        health_ms=health_ms,
        health_cause=health_cause,
        revision=revision,
        last_seen_ms=last_seen_ms,
        succeeded=succeeded,
        failed=failed,
        lost=lost,
    )
    if session_id:
        agent.session = Session(
            session_id=session_id,
            agent=agent,
            resume_hash=resume_hash,
            key_hash=key_hash,
            slots=session_slots,
            start_ms=session_start_ms,
            ttl_only=True,
        )
    return agent


# ---- drains ------------------------------------------------------------------------------------------------------


def drain_to_row(drain: Drain) -> Row:
    """Return the row of a drain."""
    namespace, drain_id, selector, reason, creator, create_ms, lift_ms = drain
    labels_json = _encode(selector.labels) if selector.labels else ""
    kind = 0 if selector.type is None else +selector.type
    return (namespace, drain_id, selector.pattern, labels_json, kind, reason, creator, create_ms, lift_ms)


def drain_from_row(row: Row) -> Drain:
    """Return the drain of a row."""
    namespace, drain_id, pattern, labels_json, kind, reason, creator, create_ms, lift_ms = row
    labels = _conditions_from(_decode(labels_json)) if labels_json else ()
    selector = AgentSelector(pattern, labels, AgentType(kind) if kind else None)
    return Drain(namespace, drain_id, selector, reason, creator, create_ms, lift_ms)


# ---- identity and audit ------------------------------------------------------------------------------------------
# Other records of this kind are rows as they are.


def join_token_to_row(record: JoinTokenRecord) -> Row:
    """Return the row of a join token."""
    return tuple(record._replace(capabilities=_encode(record.capabilities)))  # type: ignore[arg-type]


def join_token_from_row(row: Row) -> JoinTokenRecord:
    """Return the join token of a row."""
    record = JoinTokenRecord._make(row)
    return record._replace(capabilities=tuple(_decode(row[4])))


def identity_to_row(record: IdentityRecord) -> Row:
    """Return the row of an agent's key."""
    return tuple(record._replace(capabilities=_encode(record.capabilities)))  # type: ignore[arg-type]


def identity_from_row(row: Row) -> IdentityRecord:
    """Return the agent's key of a row."""
    record = IdentityRecord._make(row)
    return record._replace(capabilities=tuple(_decode(row[3])))


def audit_from_row(row: Row) -> AuditRecord:
    """Return the audit record of a row."""
    record: Any = AuditRecord._make(row)  # with a number where SQLite has no truth value
    read: AuditRecord = record._replace(allowed=bool(record.allowed))
    return read
