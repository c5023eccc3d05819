"""Drains and selectors of agents between contract and domain."""

from __future__ import annotations

import re

from agentmesh.v1 import registry_service_pb2 as pb
from meshd.domain.drains import AgentSelector, Drain
from meshd.domain.errors import Reason, Refusal
from meshd.domain.values import AgentType
from meshd.engine.selection import BusyAgent, Selection
from meshd.wire import validate
from meshd.wire.codec.tasks import label_condition_to, label_conditions
from meshd.wire.codec.values import enum, timestamp

PATTERN = re.compile(r"[a-z0-9*?-]{1,63}")
MAX_SELECTOR_BYTES = 4 * 1024
"""So that a full page of drains fits into one message."""
MAX_BUSY_AGENTS = 500
MAX_TASK_IDS = 8


def selector_from(message: pb.AgentSelector) -> AgentSelector:
    """Check and convert a selector. Raises Refusal."""
    if message.ByteSize() > MAX_SELECTOR_BYTES:
        raise validate.invalid(
            "selector", f"has {message.ByteSize()} bytes; at most {MAX_SELECTOR_BYTES} are allowed"
        )
    pattern = message.agent_id_pattern
    if pattern and not PATTERN.fullmatch(pattern):
        raise validate.invalid(
            "selector.agent_id_pattern",
            f"is {validate.shown(pattern)}: use 1 to 63 of a-z, 0-9 and -, * for any, ? for one",
        )
    if not (pattern or message.labels or message.type):
        text = 'selector is empty; name agents by pattern, label or type ("*" means all of them)'
        raise Refusal(Reason.FIELD_REQUIRED, text, field="selector")
    labels = sorted(label_conditions(message.labels, "selector.labels"))
    kind = enum(AgentType, message.type, "selector.type") if message.type else None
    return AgentSelector(pattern, tuple(labels), kind)


def drain_to(drain: Drain) -> pb.DrainRule:
    """Return the message of a drain."""
    selector = pb.AgentSelector(
        agent_id_pattern=drain.selector.pattern,
        labels=[label_condition_to(each) for each in drain.selector.labels],
        type=int(drain.selector.type or 0),  # type: ignore[arg-type]
    )
    return pb.DrainRule(
        namespace=drain.namespace,
        drain_id=drain.drain_id,
        selector=selector,
        reason=drain.reason,
        creator=drain.creator,
        create_time=timestamp(drain.create_ms),
    )


def selection_to(selection: Selection) -> pb.SelectedAgents:
    """Return the message of what a selector found."""
    return pb.SelectedAgents(
        agent_count=selection.agent_count,
        held_attempts=selection.held_attempts,
        busy_agents=[_busy_to(busy) for busy in selection.busy[:MAX_BUSY_AGENTS]],
    )


def _busy_to(busy: BusyAgent) -> pb.BusyAgent:
    return pb.BusyAgent(
        agent_id=busy.agent.spec.agent_id,
        health=int(busy.agent.health),  # type: ignore[arg-type]
        held_attempts=len(busy.task_ids),
        task_ids=busy.task_ids[:MAX_TASK_IDS],
    )
