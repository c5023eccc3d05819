"""Agents between contract and domain."""

from __future__ import annotations

from agentmesh.v1 import agent_pb2, registry_service_pb2
from meshd.domain.discovery import AgentFilter
from meshd.domain.limits import MAX_CAPABILITIES, MAX_LABELS, MAX_SLOTS
from meshd.domain.values import Agent, AgentSpec, AgentType, Health
from meshd.wire import validate
from meshd.wire.codec.tasks import MAX_REQUIRED, label_conditions
from meshd.wire.codec.values import duration, enum, timestamp

MAX_PORT = 65_535
MAX_PREFIX_BYTES = 128


def spec_from(message: agent_pb2.AgentSpec) -> AgentSpec:
    """Check and convert what an agent says about itself. Raises Refusal."""
    ttl_ms = grace_ms = 0
    if message.HasField("lease"):
        lease = message.lease
        if lease.HasField("ttl"):
            ttl_ms = validate.duration_ms(lease.ttl, "spec.lease.ttl", 2_000, 600_000)
        if lease.HasField("disconnected_grace"):
            grace_ms = validate.duration_ms(lease.disconnected_grace, "spec.lease.disconnected_grace")
    return AgentSpec(
        agent_id=validate.agent_id(message.agent_id, "spec.agent_id"),
        type=enum(AgentType, message.type, "spec.type"),
        name=validate.text(message.name, 128, "spec.name"),
        capabilities=validate.capabilities(message.capabilities, MAX_CAPABILITIES, "spec.capabilities"),
        labels=validate.labels(dict(message.labels), MAX_LABELS, "spec.labels"),
        host=validate.text(message.endpoint.host, 253, "spec.endpoint.host"),
        port=int(validate.number(message.endpoint.port, 0, MAX_PORT, "spec.endpoint.port")),
        dns_name=validate.text(message.endpoint.dns_name, 253, "spec.endpoint.dns_name"),
        slots=int(validate.number(message.slots, 0, MAX_SLOTS, "spec.slots")),
        lease_ttl_ms=ttl_ms,
        disconnected_grace_ms=grace_ms,
    )


def filter_from(message: registry_service_pb2.ListAgentsRequest) -> AgentFilter:
    """Check and convert the conditions of a list. Raises Refusal."""
    least = int(validate.number(message.min_free_slots, 0, MAX_SLOTS, "min_free_slots"))
    return conditions_from(message)._replace(min_free_slots=least)


def conditions_from(
    message: registry_service_pb2.ListAgentsRequest | registry_service_pb2.WatchAgentsRequest,
) -> AgentFilter:
    """Check and convert the conditions that lists and watches share. Raises Refusal."""
    return AgentFilter(
        type=enum(AgentType, message.type, "type") if message.type else None,
        capabilities=validate.capabilities(message.capabilities, MAX_REQUIRED, "capabilities"),
        any_capabilities=validate.capabilities(message.any_capabilities, MAX_REQUIRED, "any_capabilities"),
        labels=label_conditions(message.labels, "labels"),
        health=frozenset(enum(Health, health, "health") for health in message.health),
        text_prefix=validate.text(message.text_prefix, MAX_PREFIX_BYTES, "text_prefix").casefold(),
    )


def spec_to(spec: AgentSpec) -> agent_pb2.AgentSpec:
    """Return the message of what an agent said about itself."""
    message = agent_pb2.AgentSpec(
        agent_id=spec.agent_id,
        name=spec.name,
        type=int(spec.type),  # type: ignore[arg-type]  # same numbers by the rule of domain.values
        capabilities=sorted(spec.capabilities),
        labels=spec.labels,
        slots=spec.slots,
    )
    if spec.host or spec.port or spec.dns_name:
        message.endpoint.CopyFrom(agent_pb2.Endpoint(host=spec.host, port=spec.port, dns_name=spec.dns_name))
    if spec.lease_ttl_ms:
        message.lease.ttl.CopyFrom(duration(spec.lease_ttl_ms))
    if spec.disconnected_grace_ms:
        message.lease.disconnected_grace.CopyFrom(duration(spec.disconnected_grace_ms))
    return message


def agent_to(agent: Agent, epoch: int) -> agent_pb2.Agent:
    """Return the message of an agent."""
    session = agent.session
    message = agent_pb2.Agent(
        namespace=agent.namespace,
        spec=spec_to(agent.spec),
        health=int(agent.health),  # type: ignore[arg-type]
        health_time=timestamp(agent.health_ms),
        health_cause=agent.health_cause,
        create_time=timestamp(agent.create_ms),
        epoch=epoch,
        revision=agent.revision,
    )
    if session is not None:
        message.session_id = session.session_id
        message.free_slots = session.free_slots
        message.held_attempts = len(session.held)
    if agent.last_seen_ms:
        message.last_seen_time.CopyFrom(timestamp(agent.last_seen_ms))
    return message
