"""Finds the namespace an operator means without saying so.

Agents act in the namespace of their token, which an empty name stands for. Operators span namespaces, and a
call about one object must name its own: the object is looked for, and when it is in several the user is
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentmesh.v1 import registry_service_pb2, scheduler_service_pb2
from meshctl.mesh import PAGE_SIZE, Mesh
from meshctl.problems import ExitCode, Problem, usage

DEFAULT = "default"
SYSTEM = "_mesh"


def of_task(mesh: Mesh, typed: str | None, task_id: str) -> str:
    """Returns the namespace of a task. Raises Problem when no namespace has it, or several have."""

    def holds(namespace: str) -> bool:
        request = scheduler_service_pb2.GetTaskRequest(
            namespace=namespace, task_id=task_id, view=scheduler_service_pb2.TASK_VIEW_BASIC
        )
        return mesh.find(mesh.scheduler.GetTask, request) is not None

    return _only(mesh, typed, holds, f"task {task_id}", "see the newest ones: meshctl task list")


def of_agent(mesh: Mesh, typed: str | None, agent_id: str) -> str:
    """Returns the namespace of an agent. Raises Problem when no namespace has it, or several have."""
    return _only(mesh, typed, _has_agent(mesh, agent_id), f"agent {agent_id}", "see them: meshctl agent list")


def for_agent(mesh: Mesh, typed: str | None, agent_id: str) -> str:
    """Returns the namespace of an agent that may not exist yet: then `default`."""
    if typed or not mesh.is_operator:
        return typed or ""
    return _one_of(_where(mesh, _has_agent(mesh, agent_id)), f"agent {agent_id}") or DEFAULT


def for_task_type(mesh: Mesh, typed: str | None, capabilities: Sequence[str]) -> str:
    """Returns where a new task goes: the one namespace with an agent of all these skills, else `default`."""
    if typed or not mesh.is_operator:
        return typed or ""

    def request(page_token: str) -> registry_service_pb2.ListAgentsRequest:
        return registry_service_pb2.ListAgentsRequest(
            capabilities=capabilities, page_size=PAGE_SIZE, page_token=page_token
        )

    pages = mesh.pages(mesh.registry.ListAgents, request)
    names = sorted({agent.namespace for page in pages for agent in page.agents})
    return _one_of(names, f"an agent for {', '.join(capabilities)}") or DEFAULT


def of_selection(mesh: Mesh, typed: str | None, holds: Callable[[str], bool], what: str) -> str:
    """Returns the one namespace that has what is meant, else `default`: what is meant may come later."""
    if typed or not mesh.is_operator:
        return typed or ""
    return _one_of(_where(mesh, holds), what) or DEFAULT


def _has_agent(mesh: Mesh, agent_id: str) -> Callable[[str], bool]:
    def holds(namespace: str) -> bool:
        request = registry_service_pb2.GetAgentRequest(namespace=namespace, agent_id=agent_id)
        return mesh.find(mesh.registry.GetAgent, request) is not None

    return holds


def _only(mesh: Mesh, typed: str | None, holds: Callable[[str], bool], what: str, next_step: str) -> str:
    if typed or not mesh.is_operator:
        return typed or ""
    name = _one_of(_where(mesh, holds), what)
    if name is None:
        raise Problem(f"no namespace has {what}", next_step, ExitCode.NOT_FOUND)
    return name


def _where(mesh: Mesh, holds: Callable[[str], bool]) -> list[str]:
    # Names with an underscore are the mesh's own and hold neither agents nor tasks.
    return [name for name in mesh.namespace_names() if not name.startswith("_") and holds(name)]


def _one_of(names: Sequence[str], what: str) -> str | None:
    if len(names) > 1:
        raise usage(
            f"several namespaces have {what}: {', '.join(names)}", f"name one: --namespace {names[0]}"
        )
    return names[0] if names else None
