"""Agents selected by pattern, label and type: as a message, in words, and waited for until they hold nothing."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping

from agentmesh.v1 import registry_service_pb2 as pb
from agentmesh.v1 import requirements_pb2
from meshctl import output, words
from meshctl.mesh import Mesh
from meshctl.problems import ExitCode, Problem
from meshctl.progress import Display

GIVE_UP_S = 120.0
_SLICE_S = 1.0
_RETRY_PAUSE_S = 0.5
_NAMED_AGENTS = 3


def selector_of(pattern: str, labels: Mapping[str, str], agent_type: str | None) -> pb.AgentSelector:
    """Returns the selector of what was typed."""
    conditions = [
        requirements_pb2.LabelCondition(
            label=key, operator=requirements_pb2.LABEL_OPERATOR_IN, values=[value]
        )
        for key, value in labels.items()
    ]
    return pb.AgentSelector(agent_id_pattern=pattern, labels=conditions, type=words.type_value(agent_type))


def selector_text(selector: pb.AgentSelector) -> str:
    """Returns a selector in words, such as "worker-* with zone=a"."""
    kind = f" of type {words.type_word(selector.type)}" if selector.type else ""
    labels = ", ".join(_condition_text(each) for each in selector.labels)
    return (selector.agent_id_pattern or "all agents") + kind + (f" with {labels}" if labels else "")


def undrain_command(selector: pb.AgentSelector, namespace: str) -> str:
    """Returns the command that lifts a drain that was started here, ready to be typed."""
    arguments = ["meshctl", "undrain", *filter(None, [selector.agent_id_pattern])]
    if selector.type:
        arguments += ["--agent-type", words.type_word(selector.type)]
    for each in selector.labels:
        arguments += ["--label", f"{each.label}={each.values[0]}"]
    return shlex.join([*arguments, "-n", namespace])


def _condition_text(condition: requirements_pb2.LabelCondition) -> str:
    operator = requirements_pb2.LabelOperator.DESCRIPTOR.values_by_number.get(condition.operator)
    values = "|".join(condition.values)
    if condition.operator == requirements_pb2.LABEL_OPERATOR_IN:
        return f"{condition.label}={values}"
    name = operator.name.removeprefix("LABEL_OPERATOR_").lower() if operator else str(condition.operator)
    return f"{condition.label} {name} {values}".rstrip()


def held_text(agents: pb.SelectedAgents) -> str:
    """Returns what agents hold, the first of them by name."""
    if not agents.held_attempts:
        return f"{_count(agents.agent_count, 'agent')} idle"
    named = [
        f"{each.agent_id} ({', '.join(each.task_ids)}{', …' if each.held_attempts > len(each.task_ids) else ''})"
        for each in agents.busy_agents[:_NAMED_AGENTS]
    ]
    more = len(agents.busy_agents) - len(named)
    return f"{_count(agents.held_attempts, 'attempt')} held by {', '.join(named)}" + (
        f" and {more} more" if more else ""
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_namespace(mesh: Mesh, namespace: str, selector: pb.AgentSelector) -> pb.SelectedAgents:
    """Returns what the selected agents of one namespace hold now."""
    request = pb.WaitAgentsIdleRequest(namespace=namespace, selector=selector)
    request.timeout.FromMilliseconds(0)
    return mesh.call(mesh.registry.WaitAgentsIdle, request).agents


def wait_until_idle(
    mesh: Mesh, namespace: str, selector: pb.AgentSelector, timeout_s: float | None, display: Display
) -> pb.SelectedAgents:
    """Waits until the selected agents hold nothing, across restarts of meshd.

    Raises Problem when the time is over, the call is refused, or meshd stays away for `GIVE_UP_S`.
    """
    start_s = time.monotonic()
    end_s = float("inf") if timeout_s is None else start_s + timeout_s
    away_since_s: float | None = None
    while True:
        now_s = time.monotonic()
        request = pb.WaitAgentsIdleRequest(namespace=namespace, selector=selector)
        request.timeout.FromMilliseconds(round(1000 * min(_SLICE_S, max(0.0, end_s - now_s))))
        try:
            agents = mesh.call(mesh.registry.WaitAgentsIdle, request).agents
        except Problem as problem:
            if problem.code != ExitCode.UNREACHABLE:
                raise
            away_since_s = now_s if away_since_s is None else away_since_s
            if time.monotonic() - away_since_s > GIVE_UP_S or time.monotonic() > end_s:
                raise
            display.state("meshd is away; waiting for it")
            time.sleep(_RETRY_PAUSE_S)
            continue
        away_since_s = None
        if not agents.held_attempts:
            return agents
        if time.monotonic() >= end_s:
            after = output.length_of(time.monotonic() - start_s)
            raise Problem(
                f"after {after} {held_text(agents)}; the drain stays in force",
                "wait again with the same command, or give their work to others: --hand-over",
                ExitCode.TIMED_OUT,
            )
        display.state(held_text(agents))
