"""Calls about agents that several commands make."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.conditions import label_conditions
from agentmesh.v1 import agent_pb2, registry_service_pb2
from meshctl import words
from meshctl.mesh import PAGE_SIZE, Mesh


def list_agents(
    mesh: Mesh,
    namespace: str | None = None,
    agent_type: str | None = None,
    capabilities: Sequence[str] = (),
    health: Sequence[str] = (),
    *,
    any_capabilities: Sequence[str] = (),
    label_texts: Sequence[str] = (),
    min_free_slots: int = 0,
    text_prefix: str = "",
) -> list[agent_pb2.Agent]:
    """Returns all agents that meet every condition, ordered by namespace and id; None and empty mean any."""

    def request(page_token: str) -> registry_service_pb2.ListAgentsRequest:
        return registry_service_pb2.ListAgentsRequest(
            namespace=namespace or "",
            type=words.type_value(agent_type),
            capabilities=capabilities,
            any_capabilities=any_capabilities,
            labels=label_conditions(label_texts),
            min_free_slots=min_free_slots,
            text_prefix=text_prefix,
            health=[words.health_value(word) for word in health],
            page_size=PAGE_SIZE,
            page_token=page_token,
        )

    return [agent for page in mesh.pages(mesh.registry.ListAgents, request) for agent in page.agents]
