"""Messages of the contract as rows and fields for people."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agentmesh.v1 import agent_pb2, payload_pb2, task_pb2
from meshctl import words
from meshctl.output import age_of, clock_of
from meshctl.safe_text import escaped_json, printable

AGENT_HEADERS = ("NAMESPACE", "AGENT", "TYPE", "HEALTH", "SINCE", "HELD/SLOTS", "CAPABILITIES", "CAUSE")
TASK_HEADERS = ("NAMESPACE", "TASK", "TYPE", "STATE", "PRIORITY", "AGENT", "ATTEMPT", "AGE", "REASON")


def agent_row(agent: agent_pb2.Agent) -> tuple[str, ...]:
    """Returns an agent as a row under AGENT_HEADERS."""
    return (
        agent.namespace,
        agent.spec.agent_id,
        words.type_word(agent.spec.type),
        words.health_word(agent.health),
        age_of(agent.health_time),
        f"{agent.held_attempts}/{agent.spec.slots}",
        ",".join(agent.spec.capabilities),
        agent.health_cause,
    )


def agent_fields(agent: agent_pb2.Agent) -> Iterator[tuple[str, str]]:
    """Yields what is known about one agent."""
    spec = agent.spec
    yield "Agent", spec.agent_id
    yield "Namespace", agent.namespace
    yield "Name", spec.name
    yield "Type", words.type_word(spec.type)
    yield "Health", f"{words.health_word(agent.health)} since {clock_of(agent.health_time)}"
    yield "Cause", agent.health_cause
    yield "Last seen", clock_of(agent.last_seen_time)
    yield "Capabilities", ", ".join(spec.capabilities)
    yield "Labels", ", ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))
    yield "Endpoint", endpoint_text(spec.endpoint)
    yield "Slots", f"{spec.slots}, {agent.free_slots} free, {agent.held_attempts} held"
    yield "Session", agent.session_id
    yield "Created", clock_of(agent.create_time)


def endpoint_text(endpoint: agent_pb2.Endpoint) -> str:
    """Returns where an agent is reached; empty when it serves nothing."""
    host = endpoint.dns_name or endpoint.host
    return f"{host}:{endpoint.port}" if endpoint.port else host


def task_row(task: task_pb2.Task) -> tuple[str, ...]:
    """Returns a task as a row under TASK_HEADERS."""
    return (
        task.namespace,
        task.spec.task_id,
        task.spec.task_type,
        words.state_word(task.state),
        str(task.spec.priority) if task.spec.HasField("priority") else "5",
        task.attempt.agent_id,
        str(task.attempt.number) if task.attempt.number else "",
        age_of(task.submit_time),
        words.outcome_word(task.outcome_reason),
    )


def task_fields(task: task_pb2.Task) -> Iterator[tuple[str, str]]:
    """Yields what is known about one task, its attempts included."""
    yield "Task", task.spec.task_id
    yield "Namespace", task.namespace
    yield "Type", task.spec.task_type
    yield "State", words.state_word(task.state)
    yield "Reason", words.outcome_word(task.outcome_reason)
    yield "Next attempt", clock_of(task.next_attempt_time)
    yield "Cancel asked", clock_of(task.cancel_request_time)
    yield "Failure", failure_text(task.failure)
    yield "Progress", progress_text(task.progress)
    yield "Labels", ", ".join(f"{key}={value}" for key, value in sorted(task.spec.labels.items()))
    yield "Submitted", f"{clock_of(task.submit_time)} by {task.submitter or 'unknown'}"
    yield "Ended", clock_of(task.end_time)
    yield "Failures", str(task.failure_count or "")
    yield "Agents lost", str(task.loss_count or "")
    for attempt in task.past_attempts:
        yield f"Attempt {attempt.number}", attempt_text(attempt)
    if task.HasField("attempt") and task.attempt.number not in {past.number for past in task.past_attempts}:
        yield f"Attempt {task.attempt.number}", attempt_text(task.attempt)
    if task.HasField("output"):
        yield "Output", payload_summary(task.output)


def attempt_text(attempt: task_pb2.Attempt) -> str:
    """Returns one attempt in words."""
    failure = f": {failure_text(attempt.failure)}" if attempt.HasField("failure") else ""
    return f"{words.attempt_word(attempt.state)} on {attempt.agent_id}{failure}"


def failure_text(failure: task_pb2.Failure) -> str:
    """Returns what went wrong; empty when nothing did."""
    return ": ".join(part for part in (failure.type, failure.message) if part)


def progress_text(progress: task_pb2.ProgressReport) -> str:
    """Returns how far an attempt is; empty when it did not say."""
    percent = f"{progress.fraction:.0%}" if progress.HasField("fraction") else ""
    return " ".join(part for part in (percent, printable(progress.message)) if part)


def payload_summary(payload: payload_pb2.Payload) -> str:
    """Returns how much of what a payload is, without its content."""
    size_bytes = payload.ref.size_bytes if payload.HasField("ref") else len(payload.inline)
    return f"{size_bytes:,} bytes of {payload.media_type or 'unknown type'}"


def payload_text(payload: payload_pb2.Payload) -> str | None:
    """Returns a payload as text that is safe to show; None when it is no text."""
    pretty = pretty_json(payload)
    if pretty is not None:
        return escaped_json(pretty)
    try:
        text = payload.inline.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else printable(text.replace("\r\n", "\n"), keep_newlines=True)


def pretty_json(payload: payload_pb2.Payload) -> str | None:
    """Returns a JSON payload indented; None when it is not JSON after all."""
    if payload.media_type.partition(";")[0].strip().lower() != "application/json":
        return None
    try:
        return json.dumps(json.loads(payload.inline), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
