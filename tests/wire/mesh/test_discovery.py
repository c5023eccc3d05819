"""Discovery over the wire: every condition of ListAgents, and pages that stay whole while agents come."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.conditions import label_condition
from agentmesh.v1 import agent_pb2, requirements_pb2, task_pb2
from agentmesh.v1 import registry_service_pb2 as pb
from meshd.domain.limits import MAX_MESSAGE_BYTES
from tests.wire.mesh.conftest import RunningMesh, refused


async def declare(mesh: RunningMesh, agent_id: str, **fields: Any) -> None:
    fields.setdefault("type", agent_pb2.AGENT_TYPE_WORKER)
    spec = agent_pb2.AgentSpec(agent_id=agent_id, **fields)
    await mesh.operator.registry.DeclareAgent(pb.DeclareAgentRequest(namespace="default", spec=spec))


async def found(mesh: RunningMesh, **conditions: Any) -> list[str]:
    response = await mesh.operator.registry.ListAgents(pb.ListAgentsRequest(**conditions))
    return [agent.spec.agent_id for agent in response.agents]


@pytest.fixture
async def fleet(mesh: RunningMesh) -> RunningMesh:
    await declare(mesh, "a1", name="Ünder Writer", capabilities=["read", "write"], labels={"zone": "north"})
    await declare(mesh, "a2", capabilities=["read"], labels={"zone": "south", "memory": "32"})
    await declare(mesh, "b1", capabilities=["fly"], labels={"memory": "8"})
    return mesh


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["a1", "a2", "b1"]),
        ({"capabilities": ["read", "write"]}, ["a1"]),
        ({"any_capabilities": ["write", "fly"]}, ["a1", "b1"]),
        ({"capabilities": ["read"], "any_capabilities": ["write", "fly"]}, ["a1"]),
        ({"labels": [label_condition("zone=north,south")]}, ["a1", "a2"]),
        ({"labels": [label_condition("zone!=north")]}, ["a2", "b1"]),
        ({"labels": [label_condition("memory>16"), label_condition("zone")]}, ["a2"]),
        ({"labels": [label_condition("!zone")]}, ["b1"]),
        ({"text_prefix": "A"}, ["a1", "a2"]),
        ({"text_prefix": "üNDER"}, ["a1"]),
        ({"text_prefix": "writer"}, []),
        ({"health": [agent_pb2.HEALTH_LOST]}, []),
        ({"min_free_slots": 1}, []),
    ],
)
async def test_each_condition_narrows(
    fleet: RunningMesh, conditions: dict[str, Any], expected: list[str]
) -> None:
    assert await found(fleet, **conditions) == expected


async def test_free_slots_are_those_of_this_moment(mesh: RunningMesh) -> None:
    agent = await mesh.agent("a1", slots=2)
    await mesh.agent("a2", slots=1, capabilities=["else"])
    assert await found(mesh, min_free_slots=1) == ["a1", "a2"]
    assert await found(mesh, min_free_slots=2) == ["a1"]
    await mesh.submit("t1")
    await agent.expect("assign")
    assert await found(mesh, min_free_slots=2) == []
    (shown, _) = (await mesh.operator.registry.ListAgents(pb.ListAgentsRequest())).agents
    assert (shown.free_slots, shown.held_attempts) == (1, 1)
    # Who is out of reach is offered nothing, whatever it has free.
    agent.call.cancel()
    request = pb.ListAgentsRequest(health=[agent_pb2.HEALTH_SUSPECT])
    while not (await mesh.operator.registry.ListAgents(request)).agents:
        pass
    assert await found(mesh, min_free_slots=1) == ["a2"]


async def test_pages_stay_whole_while_agents_come(mesh: RunningMesh) -> None:
    for number in range(6):
        await declare(mesh, f"m{number}", labels={"kept": "yes"})
    seen: list[str] = []
    token = ""
    for number in range(3):
        request = pb.ListAgentsRequest(
            page_size=2, page_token=token, labels=[label_condition("kept=yes")], capabilities=[]
        )
        page = await mesh.operator.registry.ListAgents(request)
        seen += [agent.spec.agent_id for agent in page.agents]
        token = page.next_page_token
        # One before the place where the next page begins, one after it.
        await declare(mesh, f"a{number}", labels={"kept": "yes"})
        await declare(mesh, f"z{number}")
    assert seen == ["m0", "m1", "m2", "m3", "m4", "m5"]
    call = mesh.operator.registry.ListAgents(pb.ListAgentsRequest(page_token=token or "x", text_prefix="m"))
    assert await refused(call) == "INVALID_PAGE_TOKEN"


async def test_a_page_is_cut_by_bytes_before_count(mesh: RunningMesh) -> None:
    labels = {f"label-{number}": "x" * 256 for number in range(64)}
    for number in range(80):
        await declare(mesh, f"a{number:02}", labels=labels)
    seen: list[str] = []
    token = "start"
    while token:
        request = pb.ListAgentsRequest(page_size=1_000, page_token=token.removeprefix("start"))
        page = await mesh.operator.registry.ListAgents(request)
        assert page.ByteSize() <= MAX_MESSAGE_BYTES
        seen += [agent.spec.agent_id for agent in page.agents]
        token = page.next_page_token
    assert seen == [f"a{number:02}" for number in range(80)]


@pytest.mark.parametrize(
    "conditions",
    [
        {"any_capabilities": ["Not A Skill"]},
        {"any_capabilities": [f"skill-{number}" for number in range(33)]},
        {"labels": [requirements_pb2.LabelCondition(label="zone")]},
        {"labels": [label_condition("zone")] * 17},
        {"min_free_slots": -1},
        {"text_prefix": "x" * 129},
    ],
)
async def test_a_condition_that_means_nothing_is_refused(
    mesh: RunningMesh, conditions: dict[str, Any]
) -> None:
    call = mesh.operator.registry.ListAgents(pb.ListAgentsRequest(**conditions))
    assert await refused(call) == "INVALID_ARGUMENT"


async def test_more_label_conditions_than_allowed_are_refused_not_forgotten(mesh: RunningMesh) -> None:
    required = requirements_pb2.Requirements(required_labels=[label_condition("zone")] * 17)
    spec = task_pb2.TaskSpec(task_type="work", requirements=required)
    from agentmesh.v1 import scheduler_service_pb2

    request = scheduler_service_pb2.SubmitTaskRequest(namespace="default", spec=spec)
    assert await refused(mesh.operator.scheduler.SubmitTask(request)) == "INVALID_ARGUMENT"
