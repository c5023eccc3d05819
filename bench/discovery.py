"""Questions about a fleet of ``bench.fleet``, asked one after the other: lists of agents, and why a task waits."""

from __future__ import annotations

import time
from typing import Any

import grpc.aio

from agentmesh.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    requirements_pb2,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    task_pb2,
)
from bench.backlog import TASK_TYPE
from bench.fleet import ZONES
from bench.load import percentiles_ms

SEARCHES = 500
EXPLANATIONS = 20
Figures = dict[str, Any]
SPARE_AGENTS = 5
"""Declared and never run, last in the order of ids: what only they meet is found after a look at the whole fleet."""


def _label(label: str, operator: requirements_pb2.LabelOperator.ValueType, *values: str) -> Any:
    return requirements_pb2.LabelCondition(label=label, operator=operator, values=values)


CONDITIONS: dict[str, dict[str, Any]] = {
    "one of 100 skills": {"capabilities": ["skill-7"]},
    "a skill of 20 agents": {"capabilities": ["team-77"]},
    "a label": {"labels": [_label("rack", requirements_pb2.LABEL_OPERATOR_IN, "77")]},
    "an id's beginning": {"text_prefix": "fleet-0090"},
    "free slots": {"min_free_slots": 4, "health": [agent_pb2.HEALTH_HEALTHY]},
    "a rare health": {"health": [agent_pb2.HEALTH_DECLARED]},
    "a label's other values": {
        "labels": [_label("zone", requirements_pb2.LABEL_OPERATOR_NOT_IN, *(f"z{n}" for n in range(ZONES)))]
    },
    "without a label": {"labels": [_label("rack", requirements_pb2.LABEL_OPERATOR_NOT_EXISTS)]},
    "nobody": {"any_capabilities": ["fleet"], "min_free_slots": 5},
}


async def search(address: str) -> Figures:
    """Search SEARCHES times for each."""
    found: Figures = {}
    async with grpc.aio.insecure_channel(address) as channel:
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        for name, conditions in CONDITIONS.items():
            spent_s = []
            request = registry_service_pb2.ListAgentsRequest(page_size=20, **conditions)
            for _ in range(SEARCHES):
                begin = time.monotonic()
                answer = await registry.ListAgents(request)
                spent_s.append(time.monotonic() - begin)
            found[name] = {"agents": len(answer.agents), **percentiles_ms(spent_s)}
    return found


async def explain(operator: str) -> Figures:
    """Have a task explained that nobody takes, the last of its queue."""
    async with grpc.aio.insecure_channel(operator) as channel:
        scheduler: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        spec = task_pb2.TaskSpec(task_id="last", task_type=TASK_TYPE)
        await scheduler.SubmitTask(scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec))
        request = scheduler_service_pb2.ExplainTaskRequest(namespace="default", task_id="last")
        spent_s = []
        for _ in range(EXPLANATIONS):
            begin = time.monotonic()
            answer = await scheduler.ExplainTask(request)
            spent_s.append(time.monotonic() - begin)
    return {"queue_position": answer.queue_position, **percentiles_ms(spent_s)}


async def declare_spares(operator: str) -> None:
    """Declare the agents that only a look at the whole fleet finds."""
    async with grpc.aio.insecure_channel(operator) as channel:
        registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        for number in range(SPARE_AGENTS):
            spec = agent_pb2.AgentSpec(agent_id=f"spare-{number}", type=agent_pb2.AGENT_TYPE_WORKER)
            request = registry_service_pb2.DeclareAgentRequest(namespace="default", spec=spec)
            await registry.DeclareAgent(request)
